"""Networks: every node keeps its key and row, edges keep their ends, sign and strength."""

import numpy as np
import pandas as pd
import pytest

from lensbench.errors import ConfigError, UnknownNameError


def world(n_edges: int = 3):
    nodes = pd.DataFrame({"id": [10, 11, 12, 13], "column": [0, 0, 1, 1], "row": [0, 0, 1, 2],
                          "kind": ["a", "a", "b", "c"], "size": [1.0, 0.25, 0.0, 0.5],
                          "name": ["<b>x</b>", "y", "z", "w"]})  # fmt: skip
    ends = [(10, 12), (11, 12), (12, 13)] * (n_edges // 3)
    edges = pd.DataFrame(ends, columns=["source", "target"])
    edges["weight"] = np.resize([1.0, -2.0, 0.5], len(edges))
    edges["strength"] = edges["weight"].abs()
    return nodes, edges


def draw(nodes, edges, **more):
    from lensbench import plots

    return plots.network(nodes, edges, key="id", x="column", y="row", color="kind", size="size",
                         weight="weight", strength="strength", hover_columns=("name",),
                         **more)  # fmt: skip


def test_nodes_keep_their_keys_rows_and_cells() -> None:
    figure = draw(*world(), x_labels={0: "<i>the</i>", 1: "cat"}, y_labels={0: "low"})
    marks = [t for t in figure.data if t.mode == "markers"]
    assert {i: y for t in marks for i, y in zip(t.ids, t.y, strict=True)} == {
        "10": 0, "11": 0, "12": 1, "13": 2
    }  # fmt: skip
    at = {i: x for t in marks for i, x in zip(t.ids, t.x, strict=True)}
    assert at["10"] != at["11"]  # side by side
    assert all(abs(at[i] - column) < 0.5 for i, column in zip(at, (0, 0, 1, 1), strict=True))
    assert "<i>" not in figure.layout.xaxis.ticktext[0]
    assert "<b>" not in "".join(str(c) for t in marks for c in np.ravel(t.customdata))
    assert marks[0].marker.size[0] > marks[0].marker.size[1]


def test_edges_keep_their_ends_and_sign() -> None:
    from lensbench.plots.network import LOWERS, RAISES

    lines = [t for t in draw(*world()).data if t.mode == "lines"]
    drawn = {(t.line.color, tuple(t.y[:2])) for t in lines}
    assert drawn == {(RAISES, (0, 1)), (LOWERS, (0, 1)), (RAISES, (1, 2))}
    widths = {t.line.color: t.line.width for t in lines if tuple(t.y[:2]) == (0, 1)}
    assert widths[LOWERS] >= widths[RAISES]  # twice as strong


def test_what_is_left_out_is_said_and_slips_are_refused() -> None:
    from lensbench.plots.network import MOST_EDGES

    nodes, edges = world(900)
    figure = draw(nodes, edges, subtitle="here")
    assert f"{MOST_EDGES} of 900" in figure.layout.title.subtitle.text
    assert draw(nodes.iloc[:0], edges.iloc[:0]).layout.annotations
    assert draw(nodes, edges.iloc[:0]).data
    with pytest.raises(ConfigError, match="not there"):
        draw(nodes.iloc[:2], edges)
    with pytest.raises(ConfigError, match="repeat"):
        draw(pd.concat([nodes, nodes]), edges)
    with pytest.raises(UnknownNameError):
        draw(nodes.drop(columns="size"), edges)
