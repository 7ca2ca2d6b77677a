"""Heat maps whose cells can be clicked.

Plotly reports no selection for the cells of a heat map. A layer of transparent points, one per
cell, owns the hover and takes the clicks; the chosen one shows as a frame.
"""

import numpy as np
import plotly.graph_objects as go

from lensbench.plots.theme import PALETTE

MAX_CELLS = 30_000


def clickable(figure: go.Figure, chosen: tuple[float, float] | None = None) -> go.Figure:
    """A copy of a :func:`heatmap` figure whose cells report clicks as points at (x, y).

    ``chosen`` frames one cell. A heat map that was merged into blocks, or has more than 30 000
    cells, is given back as it is: its cells have no data of their own.

    Example:
        >>> figure = plots.heatmap(frame, x="position", y="layer", value="value")
        >>> figure = plots.clickable(figure, chosen=(1, 0))
    """
    copy = go.Figure(figure)
    heat = next((t for t in copy.data if isinstance(t, go.Heatmap)), None)
    if heat is None or heat.x is None or heat.z is None or np.asarray(heat.z).size > MAX_CELLS:
        return copy
    xs, ys = np.meshgrid(np.asarray(heat.x), np.asarray(heat.y))
    cells = np.asarray(heat.customdata, dtype=object)
    copy.add_scatter(
        x=xs.ravel(),
        y=ys.ravel(),
        mode="markers",
        customdata=cells.reshape(xs.size, -1),
        hovertemplate=heat.hovertemplate,
        showlegend=False,
        marker={"size": 20, "opacity": 0, "symbol": "square"},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
    )
    copy.data[0].update(hoverinfo="skip", hovertemplate=None, customdata=None)
    for axis, values in ((copy.update_xaxes, heat.x), (copy.update_yaxes, heat.y)):
        all_of = np.asarray(values)
        side = _step(all_of)  # the points' size must not widen the axes
        axis(range=[float(all_of.min()) - side, float(all_of.max()) + side])
    copy.update_layout(clickmode="event+select", dragmode=False, hoverdistance=40)
    if chosen is not None:
        _frame(copy, chosen, _step(np.asarray(heat.x)), _step(np.asarray(heat.y)))
    return copy


def _step(values: np.ndarray) -> float:
    """Half the side of a cell."""
    return 0.5 * float(np.diff(values).min()) if len(values) > 1 else 0.5


def _frame(figure: go.Figure, chosen: tuple[float, float], half_x: float, half_y: float) -> None:
    x, y = chosen
    figure.add_shape(
        type="rect", x0=x - half_x, x1=x + half_x, y0=y - half_y, y1=y + half_y,
        line={"color": PALETTE[1], "width": 3}, fillcolor="rgba(0,0,0,0)",
    )  # fmt: skip
