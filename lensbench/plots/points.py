"""Many points at once: a map of thousands of things, coloured by a number or by a group.

Above ``WEBGL`` points they are drawn by the graphics card's own path (``scattergl``), so that tens
of thousands stay as quick to pan as a hundred.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lensbench.plots.columns import escape_all, few_counts, hover, require, short, title_of
from lensbench.plots.states import empty_figure
from lensbench.plots.theme import PALETTE, SEQUENTIAL, SYMBOLS, dress

WEBGL = 2000
MOST_GROUPS = 7
"""Groups with a colour of their own, the largest; the rest share grey."""
GREY = "#8C8C8C"
OTHER = "other"


def points(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str,
    key: str,
    hover_columns: Sequence[str] = (),
    log_color: bool = False,
    background: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    title: str = "",
    subtitle: str = "",
    height: int = 560,
) -> go.Figure:
    """One marker per row with finite ``x`` and ``y``; a click reports its ``key``.

    A column of numbers is drawn on a colour scale (``log_color``: of its base-10 logarithm; values
    without one are grey). Any other column makes groups: the seven largest in colours and symbols
    of their own, then ``other``; groups named in ``background`` are grey and lie below.

    Example:
        >>> figure = plots.points(frame, x="position", y="value", color="word", key="id")
    """
    require(frame, x, y, color, key, *hover_columns)
    known = frame.loc[np.isfinite(frame[[x, y]].to_numpy(np.float64)).all(1)]
    if known.empty:
        return empty_figure("no point with a place on the map")
    figure = go.Figure()
    shown = [key, *hover_columns, *([color] if color not in (key, *hover_columns) else [])]
    draw = _Layer(figure, x, y, key, shown, labels, len(known) > WEBGL)
    numeric = pd.api.types.is_numeric_dtype(known[color]) and known[color].dtype != bool
    if numeric:
        _scaled(draw, known, color, log_color, labels)
    else:
        _grouped(draw, known, color, background)
    across, up = (title_of(frame, column, labels=labels) for column in (x, y))
    dress(figure, title=title, subtitle=subtitle, height=height, x_title=across, y_title=up)
    if few_counts(known[x]):
        figure.update_xaxes(dtick=1)
    figure.update_layout(
        clickmode="event+select", dragmode="pan", hovermode="closest",
        legend={"orientation": "h", "y": -0.14, "title": {"text": ""}, "itemsizing": "constant"},
        showlegend=draw.layers > 1,
    )  # fmt: skip
    return figure


class _Layer:
    """What the layers of one figure share."""

    def __init__(
        self,
        figure: go.Figure,
        x: str,
        y: str,
        key: str,
        shown: list[str],
        labels: Mapping[str, str] | None,
        webgl: bool,
    ) -> None:
        self.figure, self.x, self.y, self.key = figure, x, y, key
        self.shown, self.labels = shown, labels
        self.add: Any = figure.add_scattergl if webgl else figure.add_scatter
        self.size = 5 if webgl else 8
        self.layers = 0

    def __call__(self, part: pd.DataFrame, name: str, marker: dict[str, Any]) -> None:
        self.layers += 1
        cells, text = hover(part, self.shown, self.labels)
        self.add(
            x=part[self.x].to_numpy(np.float32),
            y=part[self.y].to_numpy(np.float32),
            ids=[str(k) for k in part[self.key]],
            mode="markers",
            name=escape_all([short(name)])[0],
            marker={"size": self.size, "opacity": 0.8, "line": {"width": 0}, **marker},
            customdata=cells,
            hovertemplate=text,
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.8}},
        )


def _scaled(
    draw: _Layer, known: pd.DataFrame, color: str, log: bool, labels: Mapping[str, str] | None
) -> None:
    values = known[color].to_numpy(np.float64)
    placed = np.isfinite(values) & ((values > 0) | (not log))
    if (~placed).any():
        rest = known.loc[~placed]
        name = "none" if log else "unknown"
        draw(rest, f"{title_of(rest, color, labels=labels, unit='')}: {name} (n={len(rest):,})",
             {"color": GREY, "symbol": "circle-open", "opacity": 0.6,
              "line": {"width": 1, "color": GREY}})  # fmt: skip
    if not placed.any():
        return
    part = known.loc[placed].sort_values(color)
    shade = part[color].to_numpy(np.float64)
    title = {"text": title_of(known, color, labels=labels), "side": "right"}
    bar: dict[str, Any] = {"title": title, "thickness": 14}
    if log:
        shade = np.log10(shade)
        ticks = np.arange(np.floor(shade.min()), np.ceil(shade.max()) + 1)
        bar |= {"tickvals": ticks, "ticktext": [f"{10**t:g}" for t in ticks]}
    draw(part, f"n={len(part):,}", {"color": shade.astype(np.float32), "colorscale": SEQUENTIAL,
                                    "colorbar": bar, "showscale": True})  # fmt: skip


def _grouped(draw: _Layer, known: pd.DataFrame, color: str, background: Sequence[str]) -> None:
    names = np.array([str(v) for v in known[color]], dtype=object)
    counted = Counter(name for name in names if name not in background)
    order = [name for name, _ in counted.most_common()]
    own = order[:MOST_GROUPS]
    for name in [b for b in background if b in names]:
        part = known.loc[names == name]
        draw(part, f"{name} (n={len(part):,})", {"color": GREY, "opacity": 0.35})
    rest = known.loc[~np.isin(names, [*own, *background])]
    if len(rest):
        many = len(order) - len(own)
        edge = {"width": 1.5, "color": GREY}
        draw(rest, f"{OTHER}, {many:,} more (n={len(rest):,})",
             {"color": GREY, "symbol": "circle-open", "line": edge})  # fmt: skip
    colours = [c for c in PALETTE if c != GREY]
    for i, name in enumerate(own):
        part = known.loc[names == name]
        draw(part, f"{name} (n={len(part):,})",
             {"color": colours[i], "symbol": SYMBOLS[i % len(SYMBOLS)], "opacity": 0.95,
              "size": draw.size + 3 if background else draw.size})  # fmt: skip
