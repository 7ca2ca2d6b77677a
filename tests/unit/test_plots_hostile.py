"""Frames that break a figure: no number in them, one, ten thousand, all equal; hostile names."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from lensbench import plots
from lensbench.plots.bidi import FIRST, LAST, isolated

HEBREW, ARABIC = "שלום עולם", "مرحبا بالعالم"
LONG = "blocks.17.attn.z-" + "very-long-name-" * 10


def frame(n: int, **columns: Any) -> pd.DataFrame:
    made = {
        "layer": np.arange(n),
        "y": np.linspace(0.1, 1, n),
        "word": "a",
        "id": range(n),
        "at": 0,
    }
    found = pd.DataFrame({**made, **columns})
    found.attrs["units"] = {"y": "nats"}
    return found.assign(low=found["y"] - 0.1, high=found["y"] + 0.1)


DRAW = {
    "lines": lambda f: plots.lines(f, x="layer", y="y", low="low", high="high", title="T"),
    "scatter": lambda f: plots.scatter(f, x="layer", y="y", low="low", high="high", title="T"),
    "bars": lambda f: plots.bars(f, x="layer", y="y", low="low", high="high", title="T"),
    "histogram": lambda f: plots.histogram(f, value="y", title="T"),
    "heatmap": lambda f: plots.heatmap(f, x="layer", y="at", value="y", title="T"),
    "points": lambda f: plots.points(f, x="layer", y="y", color="y", key="id", title="T"),
    "mosaic": lambda f: plots.mosaic(f, row="at", column="at", x="layer", y="at", value="y"),
}


def said(figure: go.Figure) -> str:
    """Everything that a reader of a figure reads."""
    layout: Any = figure.to_plotly_json()["layout"]
    title = layout.get("title") or {}
    notes = [str(note["text"]) for note in layout.get("annotations", ())]
    return " ".join([str(title.get("text", "")), str(title.get("subtitle", {}).get("text", "")),
                     *notes])  # fmt: skip


@pytest.mark.parametrize("kind", DRAW)
@pytest.mark.parametrize("n", [1, 40])
def test_a_frame_without_a_number_says_so(kind: str, n: int) -> None:
    figure = DRAW[kind](frame(n, y=np.nan))
    assert not figure.data
    text = said(figure)
    assert "place on the map" in text if kind == "points" else "NaN" in text
    if kind != "points":
        assert ("40 values" if n > 1 else "only value") in text


@pytest.mark.parametrize("kind", DRAW)
def test_an_empty_frame_says_so(kind: str) -> None:
    figure = DRAW[kind](frame(0))
    assert not figure.data
    assert "no " in said(figure)


@pytest.mark.parametrize("kind", [k for k in DRAW if k != "mosaic"])
@pytest.mark.parametrize("n", [1, 10_000])
def test_one_and_ten_thousand_are_drawn(kind: str, n: int) -> None:
    figure = DRAW[kind](frame(n))
    assert len(figure.data)
    if kind == "bars" and n > 1:
        assert len(figure.data[0].x) == 400
        assert "the first 400 of 10,000 rows" in said(figure)
    if kind in ("scatter", "points"):
        assert figure.data[0].type == ("scattergl" if n > 1 else "scatter")
    if kind == "lines":
        assert figure.data[-1].mode == ("lines" if n > 1 else "lines+markers")


def test_the_interval_of_a_single_point_is_drawn() -> None:
    point = DRAW["lines"](frame(1)).data[0]
    assert point.error_y.array[0] == pytest.approx(0.1)


def test_values_that_are_none_are_counted_and_alone_ones_keep_a_marker() -> None:
    values = np.linspace(0, 1, 300)
    values[[3, 5]] = np.nan
    figure = DRAW["lines"](frame(300, y=values))
    assert "2 of 300 values are undefined" in said(figure)
    assert figure.data[-1].mode == "lines+markers"
    assert "undefined" not in said(DRAW["lines"](frame(300)))


@pytest.mark.parametrize("kind", [k for k in DRAW if k != "mosaic"])
def test_equal_values_are_drawn(kind: str) -> None:
    figure = DRAW[kind](frame(3, y=3.0))
    assert len(figure.data)
    if kind == "heatmap":
        assert (figure.data[0].zmin, figure.data[0].zmax) == (2.5, 3.5)
        assert "every cell is 3" in said(figure)


def test_whole_numbers_have_no_ticks_between_them() -> None:
    assert list(DRAW["heatmap"](frame(4)).layout.xaxis.tickvals) == [0, 1, 2, 3]
    assert DRAW["heatmap"](frame(40)).layout.xaxis.tickvals is None
    assert DRAW["points"](frame(4)).layout.xaxis.dtick == 1


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_error_bars_stand_out_from_page_and_bar(mode: Any) -> None:
    from lensbench.plots.theme import PALETTE, PAPER

    def light(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def parts(colour: str) -> list[float]:
        return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]

    data = plots.template(mode).data
    for kind in (data.bar, data.scatter):
        *rgb, alpha = map(float, kind[0].error_y.color.removeprefix("rgba(").rstrip(")").split(","))
        for ground in (PAPER[mode], PALETTE[0]):
            under = parts(ground)
            over = [alpha * c / 255 + (1 - alpha) * g for c, g in zip(rgb, under, strict=True)]
            low, high = sorted((light(over), light(under)))
            assert (high + 0.05) / (low + 0.05) > 2.2, (mode, ground)
    figure = DRAW["bars"](frame(3))
    assert figure.data[0].error_y.color is None  # the template's, so that a page can switch


@pytest.mark.parametrize("word", [HEBREW, ARABIC])
def test_right_to_left_names_do_not_turn_the_numbers_beside_them(word: str) -> None:
    apart = f"{FIRST}{word}{LAST}"
    assert isolated(f"{word}: 12, 0.5") == f"{apart}: 12, 0.5"
    assert isolated(isolated(f"a {word} 3")) == isolated(f"a {word} 3")
    assert isolated("topk-8: 12") == "topk-8: 12"
    assert isolated(f"␣{word}") == f"{FIRST}␣{word}{LAST}"
    rows = frame(4, word=[word, "b"] * 2)
    figure = plots.lines(rows, x="layer", y="y", color="word", title=f"{word}: 2 layers",
                         subtitle=f"n = 2 · {word} 3")  # fmt: skip
    assert figure.data[0].name == apart
    assert f"{apart}: 2 layers" in said(figure)
    assert f"{apart} 3" in said(figure)
    assert figure.data[0].customdata[0][0] == "0"
    bars = plots.bars(rows, x="word", y="y")
    assert bars.layout.xaxis.labelalias[word] == apart
    heat = plots.heatmap(rows, x="layer", y="at", value="y", text="word",
                         x_labels=dict.fromkeys(range(4), word))  # fmt: skip
    assert heat.layout.xaxis.ticktext[0] == apart
    assert heat.data[0].text[0][0] == apart
    dots = plots.points(rows, x="layer", y="y", color="word", key="word")
    assert apart in dots.data[0].name
    assert dots.data[0].customdata[0][0] == word  # a click gives the key itself


def test_a_table_and_a_strip_keep_right_to_left_words_apart() -> None:
    from lensbench.plots.tables import html_table

    page = html_table(pd.DataFrame({"name": [HEBREW], "n": [3]}), caption=f"{HEBREW}: 12")
    assert page.count(f"{FIRST}{HEBREW}{LAST}") == 2
    assert "unicode-bidi:plaintext" in plots.token_strip([HEBREW])


def test_a_word_that_isolates_by_itself_is_marked() -> None:
    """An isolate that a model wrote is shown as a mark; only ours may turn text."""
    from lensbench.plots.tables import safe

    assert safe(f"a{FIRST}b") == "a[U+2068]b"


def test_long_names_are_cut_beside_the_figure_and_whole_in_the_hover() -> None:
    rows = frame(2, word=[LONG, LONG + "b"])
    figure = plots.bars(rows, x="word", y="y")
    told = figure.layout.xaxis.labelalias[LONG]
    assert len(told) <= 44
    assert told.startswith("blocks.17.attn.z")
    assert "…" in told
    assert figure.data[0].customdata[0][0] == LONG
    named = plots.lines(rows.head(1), x="layer", y="y", color="word")
    assert len(named.data[0].name) <= 44
    heat = plots.heatmap(rows, x="layer", y="at", value="y", text="word",
                         x_labels={0: LONG, 1: "b"})  # fmt: skip
    assert len(heat.layout.xaxis.ticktext[0]) <= 44
    assert heat.data[0].text[0][0].endswith("…")


def test_names_that_differ_in_the_middle_alone_stay_apart() -> None:
    names = ["a" * 40 + middle + "b" * 40 for middle in "xy"]
    figure = plots.lines(frame(2, word=names), x="layer", y="y", color="word")
    assert [trace.name for trace in figure.data] == names


def test_markup_in_a_category_is_text() -> None:
    figure = plots.bars(frame(1, word="<b>bold</b>"), x="word", y="y")
    assert figure.layout.xaxis.labelalias["<b>bold</b>"] == "&lt;b&gt;bold&lt;/b&gt;"


def test_a_long_word_in_a_table_breaks() -> None:
    from lensbench.plots.tables import html_table

    assert "overflow-wrap:anywhere" in html_table(pd.DataFrame({"a": ["x" * 200]}))
    assert "overflow-wrap:anywhere" not in html_table(pd.DataFrame({"a": ["x" * 20]}))


def test_a_token_that_looks_like_markup_does_not_strike_a_title_out() -> None:
    figure = plots.lines(frame(3), x="layer", y="y", title="After '<s> Once'",
                         subtitle="n = 1: '<s>'<br>and more",
                         labels={"layer": "layer of <b>"})  # fmt: skip
    text = said(figure)
    assert "'&lt;s> Once'" in text
    assert "'&lt;s>'<br>and more" in text
    assert figure.layout.xaxis.title.text == "layer of &lt;b>"


def test_a_light_figure_brings_its_own_ground_for_dark_notebooks() -> None:
    from lensbench.plots.theme import PAPER

    assert DRAW["lines"](frame(3)).layout.template.layout.paper_bgcolor == PAPER["light"]
    assert plots.template("dark").layout.paper_bgcolor == "rgba(0,0,0,0)"
