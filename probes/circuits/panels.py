"""Heat maps of single heads beside one another: one panel per score, one colour bar.

For figures of :func:`lensbench.plots.heatmap` that share their colour range; a single one needs no
panel.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_TICKS = 24
"""More labels than this would run into one another."""


def label_cells(figure: "go.Figure", x: Mapping[int, str], y: Mapping[int, str]) -> "go.Figure":
    """Name the columns and rows of a heat map, in place; where there are many, every few."""
    for update, names in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
        shown = sorted(names)[:: -(-len(names) // _MOST_TICKS)]
        update(tickvals=shown, ticktext=[names[i] for i in shown])
    return figure


def whole_numbers(n: int) -> dict[int, str]:
    """Labels of things that are counted from 0."""
    return {i: str(i) for i in range(n)}


def side_by_side(
    figures: "Mapping[str, go.Figure]", *, title: str, subtitle: str = ""
) -> "go.Figure":
    """The heat maps as panels, left to right, named by their keys."""
    from plotly.subplots import make_subplots

    from lensbench.plots.theme import dress

    layouts: list[Any] = [figure.layout for figure in figures.values()]
    last = len(figures)
    gap: dict[str, Any] = {"horizontal_spacing": 0.16 / last}
    whole = make_subplots(rows=1, cols=last, subplot_titles=list(figures), **gap)
    for column, figure in enumerate(figures.values(), 1):
        whole.add_trace(figure.data[0], row=1, col=column)
        whole.data[-1].showscale = column == last
    dress(whole, title=title, subtitle=subtitle, height=layouts[0].height)
    for column, layout in enumerate(layouts, 1):
        whole.update_xaxes(layout.xaxis.to_plotly_json(), row=1, col=column)
        whole.update_yaxes(layout.yaxis.to_plotly_json(), row=1, col=column)
        if column > 1:
            whole.update_yaxes(title={"text": ""}, row=1, col=column)
    whole.update_layout(margin={"t": 104 if subtitle else 88})
    return whole
