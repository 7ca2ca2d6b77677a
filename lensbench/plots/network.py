"""Nodes in rows and columns, and the edges between them: colour says the sign, width the share."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lensbench.errors import ConfigError
from lensbench.plots.columns import escape_all, groups, hover, require
from lensbench.plots.states import empty_figure
from lensbench.plots.theme import SYMBOLS, colour, dress

MOST_EDGES = 600
"""Edges drawn, the strongest; the subtitle says how many there are."""
RAISES, LOWERS = "#D55E00", "#0072B2"
_WIDTHS = ((0.5, 3.5), (0.2, 2.0), (0.05, 1.0), (0.0, 0.5))  # from this share of the strongest on


def network(
    nodes: pd.DataFrame,
    edges: pd.DataFrame,
    *,
    key: str,
    x: str,
    y: str,
    color: str,
    size: str,
    weight: str,
    strength: str,
    hover_columns: Sequence[str] = (),
    x_labels: Mapping[int, str] | None = None,
    y_labels: Mapping[int, str] | None = None,
    x_title: str = "",
    y_title: str = "",
    title: str = "",
    subtitle: str = "",
    height: int = 640,
) -> go.Figure:
    """One marker per node at its column ``x`` and row ``y`` (whole numbers), nodes of a cell apart.

    ``edges`` has ``source`` and ``target`` (values of ``key``), a signed ``weight`` for the colour
    and a ``strength`` for the width. A click on a marker reports its key.

    Raises:
        ConfigError: an edge between nodes that are not there, or two nodes of one key.

    Example:
        >>> nodes = pd.DataFrame(
        ...     {
        ...         "id": ["a", "b"],
        ...         "x": [0, 1],
        ...         "y": [0, 1],
        ...         "kind": ["head", "mlp"],
        ...         "size": [1.0, 2.0],
        ...     }
        ... )
        >>> edges = pd.DataFrame({"source": ["a"], "target": ["b"], "w": [0.3], "strength": [0.3]})
        >>> figure = plots.network(
        ...     nodes,
        ...     edges,
        ...     key="id",
        ...     x="x",
        ...     y="y",
        ...     color="kind",
        ...     size="size",
        ...     weight="w",
        ...     strength="strength",
        ... )
    """
    require(nodes, key, x, y, color, size, *hover_columns)
    require(edges, "source", "target", weight, strength)
    if nodes.empty:
        return empty_figure("no node is left")
    if not nodes[key].is_unique:
        raise ConfigError(f"network needs one row per node; values of {key!r} repeat")
    unknown = set(edges["source"]) | set(edges["target"])
    if unknown := unknown - set(nodes[key]):
        raise ConfigError(f"edges name nodes that are not there: {sorted(unknown)[:5]}")
    placed = nodes.assign(_x=_apart(nodes, x, y, size))
    figure = go.Figure()
    note = _draw_edges(figure, edges, placed.set_index(key), y, weight, strength)
    for i, (name, part) in enumerate(groups(placed, color)):
        cells, text = hover(part, hover_columns)
        most = max(float(np.abs(nodes[size].to_numpy(np.float64)).max()), 1e-12)
        figure.add_scatter(
            x=part["_x"].to_numpy(), y=part[y].to_numpy(), mode="markers", name=name,
            ids=[str(k) for k in part[key]], customdata=cells, hovertemplate=text,
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "color": colour(i),
                    "size": 7 + 11 * np.sqrt(part[size].abs().to_numpy() / most),
                    "line": {"width": 1, "color": "white"}},
        )  # fmt: skip
    dress(figure, title=title, subtitle=" · ".join(p for p in (subtitle, note) if p),
          x_title=x_title, y_title=y_title, height=height)  # fmt: skip
    figure.update_layout(clickmode="event+select", dragmode="pan", hovermode="closest")
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(zeroline=False)
    for labels, update in ((x_labels, figure.update_xaxes), (y_labels, figure.update_yaxes)):
        if labels is not None:
            update(tickvals=list(labels), ticktext=escape_all([str(v) for v in labels.values()]))
    return figure


def _apart(nodes: pd.DataFrame, x: str, y: str, size: str) -> np.ndarray:
    """Columns of the markers: those of one cell lie side by side, within the cell's width."""
    order = nodes.sort_values(size, ascending=False).groupby([x, y], sort=False).cumcount()
    count = nodes.groupby([x, y])[size].transform("size").to_numpy(np.float64)
    rank = order.reindex(nodes.index).to_numpy(np.float64)
    step = 0.8 / np.maximum(count, 4)
    return nodes[x].to_numpy(np.float64) + (rank - (count - 1) / 2) * step


def _draw_edges(
    figure: go.Figure, edges: pd.DataFrame, nodes: pd.DataFrame, y: str, weight: str, strength: str
) -> str:
    """A few traces, one per sign and width, so that hundreds of edges stay quick."""
    drawn = edges.sort_values(strength, ascending=False).head(MOST_EDGES)
    strengths = drawn[strength].to_numpy(np.float64)
    share = strengths / max(float(strengths.max(initial=0.0)), 1e-12)
    above = np.inf
    for least, width in _WIDTHS:
        band, above = (share >= least) & (share < above), least
        for sign, shade in ((1, RAISES), (-1, LOWERS)):
            part = drawn.loc[band & (np.sign(drawn[weight].to_numpy()) == sign)]
            if part.empty:
                continue
            xs, ys = [], []
            for source, target in zip(part["source"], part["target"], strict=True):
                xs += [nodes.at[source, "_x"], nodes.at[target, "_x"], None]
                ys += [nodes.at[source, y], nodes.at[target, y], None]
            figure.add_scatter(x=xs, y=ys, mode="lines", hoverinfo="skip", showlegend=False,
                               opacity=0.55, line={"color": shade, "width": width})  # fmt: skip
    return f"strongest {MOST_EDGES} of {len(edges)} edges drawn" if len(edges) > MOST_EDGES else ""
