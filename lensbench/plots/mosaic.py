"""Many small square maps in one figure: a thumbnail per head, or per anything in a grid."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lensbench.errors import ConfigError
from lensbench.plots.columns import require, title_of
from lensbench.plots.grids import MAX_SIDE
from lensbench.plots.states import empty_figure, no_numbers
from lensbench.plots.theme import PALETTE, SEQUENTIAL, dress
from lensbench.words import spelled


def mosaic(
    frame: pd.DataFrame,
    *,
    row: str,
    column: str,
    x: str,
    y: str,
    value: str,
    span: tuple[float, float] = (0.0, 1.0),
    hovers: Mapping[tuple[int, int], str] | None = None,
    chosen: tuple[int, int] | None = None,
    title: str = "",
    subtitle: str = "",
) -> go.Figure:
    """A thumbnail of ``value`` at (``x``, ``y``) per (``row``, ``column``), in one colour range.

    ``y`` runs downwards inside a thumbnail, rows run downwards over the figure. One transparent
    point per thumbnail, at (column, row), owns hover (``hovers``) and clicks; ``chosen`` is framed.

    Raises:
        ConfigError: more cells a side than a page can draw; show fewer of them.

    Example:
        >>> figure = plots.mosaic(
        ...     frame, row="layer", column="position", x="x", y="y", value="value", span=(-1, 1)
        ... )
    """
    require(frame, row, column, x, y, value)
    if frame.empty:
        return empty_figure(f"no values of {spelled(value)}")
    if not np.isfinite(frame[value].to_numpy(np.float64)).any():
        return no_numbers(title_of(frame, value), len(frame), title=title)
    sizes = [int(np.asarray(frame[c]).max()) + 1 for c in (row, column, y, x)]
    if max(sizes[0] * sizes[2], sizes[1] * sizes[3]) > MAX_SIDE:
        raise ConfigError(f"{sizes[0]}x{sizes[1]} thumbnails of {sizes[2]}x{sizes[3]} cells are "
                          f"more than {MAX_SIDE} a side; show fewer cells of each")  # fmt: skip
    z = np.full(sizes, np.nan, np.float32)
    z[tuple(frame[c].to_numpy() for c in (row, column, y, x))] = frame[value].to_numpy()
    rows, columns, height, width = sizes
    tiles = np.pad(z, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    picture = tiles.transpose(0, 2, 1, 3).reshape(rows * (height + 1), columns * (width + 1))
    figure = go.Figure(go.Heatmap(
        z=picture, zmin=span[0], zmax=span[1], colorscale=SEQUENTIAL, showscale=False,
        hoverinfo="skip", x0=-0.5 + 0.5 / (width + 1), dx=1 / (width + 1),
        y0=-0.5 + 0.5 / (height + 1), dy=1 / (height + 1),
    ))  # fmt: skip
    places = [(r, c) for r in range(rows) for c in range(columns)]
    says = [(hovers or {}).get(p, f"{row} {p[0]}, {column} {p[1]}") for p in places]
    figure.add_scatter(
        x=[c for _, c in places], y=[r for r, _ in places], mode="markers", customdata=says,
        hovertemplate="%{customdata}<extra></extra>", showlegend=False,
        marker={"size": 34, "opacity": 0, "symbol": "square"},
        selected={"marker": {"opacity": 0}}, unselected={"marker": {"opacity": 0}},
    )  # fmt: skip
    if chosen is not None:
        r, c = chosen
        figure.add_shape(type="rect", x0=c - 0.5, x1=c + 0.5, y0=r - 0.5, y1=r + 0.5,
                         line={"color": PALETTE[1], "width": 3})  # fmt: skip
    dress(figure, title=title, subtitle=subtitle, x_title=column, y_title=row,
          height=min(760, 140 + 88 * rows))  # fmt: skip
    figure.update_layout(clickmode="event+select", dragmode=False, hoverdistance=60)
    figure.update_xaxes(showgrid=False, zeroline=False, tickvals=list(range(columns)))
    figure.update_yaxes(showgrid=False, zeroline=False, tickvals=list(range(rows)),
                        autorange="reversed")  # fmt: skip
    return figure
