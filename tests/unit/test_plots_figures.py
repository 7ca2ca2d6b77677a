"""Primitives draw exactly what the frame says, with units, n and fixed ranges."""

import numpy as np
import pandas as pd
import pytest

from lensbench.errors import ConfigError, UnknownNameError


@pytest.fixture
def curve() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "layer": [1, 0, 0, 1],
            "kl": [0.5, 1.0, 2.0, 1.5],
            "lo": [0.4, 0.9, 1.9, 1.4],
            "hi": [0.6, 1.1, 2.1, 1.6],
            "lens": ["logit", "logit", "twin", "twin"],
            "n": [12, 12, 9, 9],
        }
    )
    frame.attrs["units"] = {"kl": "nats"}
    return frame


def test_lines_draw_each_series_sorted_with_band_unit_and_n(curve: pd.DataFrame) -> None:
    from lensbench import plots

    figure = plots.lines(curve, x="layer", y="kl", color="lens", low="lo", high="hi")
    drawn = {t.name: t for t in figure.data if t.name}
    assert list(drawn) == ["logit", "twin"]
    assert list(drawn["logit"].x) == [0, 1]
    assert list(drawn["logit"].y) == [1.0, 0.5]
    assert figure.layout.yaxis.title.text == "KL [nats]"
    assert figure.layout.xaxis.title.text == "layer"
    assert "n: %{customdata[4]}" in drawn["twin"].hovertemplate
    assert drawn["twin"].customdata[0][4] == "9"
    bands = [t for t in figure.data if not t.name]
    assert sorted(bands[0].y) == [0.4, 0.6, 0.9, 1.1]


def test_series_differ_in_more_than_colour(curve: pd.DataFrame) -> None:
    from lensbench import plots

    drawn = [t for t in plots.lines(curve, x="layer", y="kl", color="lens").data if t.name]
    assert drawn[0].line.dash != drawn[1].line.dash
    assert drawn[0].marker.symbol != drawn[1].marker.symbol


def test_an_unknown_column_offers_the_nearest(curve: pd.DataFrame) -> None:
    from lensbench import plots

    with pytest.raises(UnknownNameError, match="Did you mean 'layer'"):
        plots.lines(curve, x="layr", y="kl")


def test_pareto_front_keeps_only_unbeaten_points() -> None:
    from lensbench import plots

    x = np.array([8.0, 16.0, 32.0, 16.0, 8.0])
    y = np.array([0.80, 0.90, 0.85, 0.70, 0.60])
    assert sorted(plots.pareto_front(x, y, "max")) == [0, 1]
    assert sorted(plots.pareto_front(x, y, "min")) == [4]


def test_scatter_has_error_bars_of_the_interval() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"l0": [8.0], "ce": [0.8], "a": [0.7], "b": [0.85]})
    figure = plots.scatter(frame, x="l0", y="ce", low="a", high="b", front="max")
    marks = figure.data[-1]
    np.testing.assert_allclose(marks.error_y.array, [0.05])
    np.testing.assert_allclose(marks.error_y.arrayminus, [0.1])


def test_bars_label_groups_and_keep_values() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"m": ["a", "b"], "v": [0.2, 0.9], "who": ["model", "twin"]})
    figure = plots.bars(frame, x="m", y="v", color="who", unit="bits")
    assert [t.y[0] for t in figure.data] == [0.2, 0.9]
    assert figure.layout.yaxis.title.text == "v [bits]"


@pytest.mark.parametrize("draw", ["lines", "scatter", "bars"])
def test_an_empty_frame_says_so(draw: str) -> None:
    from lensbench import plots

    frame = pd.DataFrame({"x": [], "y": []})
    figure = getattr(plots, draw)(frame, x="x", y="y")
    assert "Nothing to draw" in figure.layout.annotations[0].text


def test_heatmap_puts_each_value_in_its_cell_and_fixes_the_range() -> None:
    from lensbench import plots

    frame = pd.DataFrame(
        {"pos": [1, 0, 1, 0], "layer": [0, 0, 1, 1], "p": [0.1, 0.2, 0.3, 0.4], "tok": list("dcba")}
    )
    figure = plots.heatmap(
        frame,
        x="pos",
        y="layer",
        value="p",
        span=(0.0, 1.0),
        x_labels={0: "<b>", 1: "<b>"},
        text="tok",
        unit="1",
    )
    trace = figure.data[0]
    np.testing.assert_allclose(trace.z, [[0.2, 0.1], [0.4, 0.3]], rtol=1e-6)
    assert (trace.zmin, trace.zmax) == (0.0, 1.0)
    assert trace.customdata[1][0][2] == "0.4"
    assert list(trace.text[0]) == ["c", "d"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1], "equal tokens stay two columns"
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;", "&lt;b&gt;"]
    assert trace.colorbar.title.text == "p [1]"


def test_a_diverging_heatmap_is_centred_at_zero() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"x": [0, 1], "y": [0, 0], "v": [-1.0, 3.0]})
    trace = plots.heatmap(frame, x="x", y="y", value="v", diverging=True).data[0]
    assert (trace.zmin, trace.zmax) == (-3, 3)
    assert plots.heatmap(frame, x="x", y="y", value="v").data[0].zmid is None


def test_a_large_heatmap_keeps_the_extreme_of_each_block_and_says_so() -> None:
    from lensbench import plots

    rows, cols = np.indices((3, 1200))
    values = np.ones((3, 1200))
    values[2, 700] = -9.0
    frame = pd.DataFrame({"x": cols.ravel(), "y": rows.ravel(), "v": values.ravel()})
    figure = plots.heatmap(frame, x="x", y="y", value="v")
    assert figure.data[0].z.shape == (3, 400)
    assert figure.data[0].z[2, 233] == -9.0
    assert "blocks of 1x3" in figure.layout.title.subtitle.text


def test_heatmap_refuses_two_values_for_one_cell() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"x": [0, 0], "y": [0, 0], "v": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="one row per cell"):
        plots.heatmap(frame, x="x", y="y", value="v")


def test_histogram_counts_every_value_once_and_owns_up_to_those_left_out() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"density": [0.0, 1e-4, 1e-3, 1e-2, 1e-1, np.nan]})
    figure = plots.histogram(frame, value="density", bins=4, log_x=True)
    assert sum(figure.data[0].y) == 4
    assert "2 of 6 values" in figure.layout.title.subtitle.text


def test_histogram_weights_are_counts() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"v": [0.0, 1.0], "count": [3, 7]})
    assert list(plots.histogram(frame, value="v", weight="count", bins=2).data[0].y) == [3, 7]
    with pytest.raises(ConfigError, match="at least 1"):
        plots.histogram(frame, value="v", bins=0)


def test_messages_are_inert_and_both_states_differ() -> None:
    from lensbench import plots

    empty = plots.empty_figure("no <script>", next_step="lensbench demo")
    failed = plots.error_figure("no <script>")
    assert "<script>" not in empty.to_json()
    assert "&lt;script" in empty.layout.annotations[0].text
    assert "lensbench demo" in empty.layout.annotations[0].text
    assert empty.layout.annotations[0].text != failed.layout.annotations[0].text


def test_light_and_dark_change_the_ink_but_not_the_data_colours() -> None:
    from lensbench.plots.theme import template

    light, dark = template("light").layout, template("dark").layout
    assert light.font.color != dark.font.color
    assert light.colorway == dark.colorway


def test_the_upload_button_is_off() -> None:
    from lensbench.plots import CONFIG

    assert CONFIG["showSendToCloud"] is False


def test_log_axes_write_their_ticks_out_and_names_are_inert() -> None:
    from lensbench import plots

    frame = pd.DataFrame({"l0": [8.0, 32.0], "y": [0.5, 0.9], "who": ["<a href=x>", "b"]})
    figure = plots.scatter(frame, x="l0", y="y", color="who", log_x=True)
    assert {"10", "20", "5"} <= set(figure.layout.xaxis.ticktext)
    assert figure.data[0].name == "&lt;a href=x&gt;"
    wide = pd.DataFrame({"l0": [1e-6, 1.0], "y": [0.5, 0.9]})
    assert plots.scatter(wide, x="l0", y="y", log_x=True).layout.xaxis.dtick == 1


def texts_in(value: object) -> list[str]:
    if isinstance(value, dict):
        return [t for inner in value.values() for t in texts_in(inner)]
    if isinstance(value, (list, tuple, np.ndarray)):
        return [t for inner in np.asarray(value, dtype=object).ravel() for t in texts_in(inner)]
    return [value] if isinstance(value, str) else []


def test_text_in_a_figure_is_inert_and_shows_its_control_characters() -> None:
    from lensbench import plots

    nasty = "<a href='x'>\x1b[31m\u202ea"
    frame = pd.DataFrame(
        {"x": [0, 1], "y": [0, 0], "v": [1.0, 2.0], "word": [nasty] * 2, "who": [nasty] * 2}
    )
    drawn = [
        plots.heatmap(frame, x="x", y="y", value="v", text="word", x_labels={0: nasty, 1: "b"}),
        plots.lines(frame, x="x", y="v", color="who"),
        plots.scatter(frame, x="x", y="v", color="who", hover_columns=("word",)),
    ]
    for figure in drawn:
        held = " ".join(texts_in(figure.to_plotly_json()))
        assert "<a " not in held
        assert not any(c in held for c in "\x1b\u202e")
        assert "[U+202E]" in held
