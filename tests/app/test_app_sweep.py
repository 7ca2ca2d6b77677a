"""Sweep: what is drawn is what was measured, with its control, and can be taken away."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.app.drawn import run_code
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def figures(page: Any) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]


def test_nothing_is_chosen_for_the_reader(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "sweep")
    assert page.selectbox(key="run").value is None
    assert not figures(page)
    assert "Choose a run" in page.info[0].value


def test_a_run_that_was_not_evaluated_says_how(monkeypatch, small_root: Path, tmp_path) -> None:
    shutil.copytree(small_root / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "small" / "evaluation")
    page = open_page(monkeypatch, tmp_path, "sweep", run="runs/small")
    assert f"lensbench eval sae {tmp_path}/runs/small" in words(page)
    assert not page.exception
    assert "without intervals or controls" in page.warning[0].value
    (figure,) = figures(page)
    drawn = next(t for t in figure["data"] if t["name"] == "topk")
    logged = []
    for folder in sorted((tmp_path / "runs" / "small").glob("topk-*")):
        line = (folder / "metrics.jsonl").read_text().splitlines()[-1]
        logged.append(json.loads(line)["fvu"])
    assert [float(cell[2]) for cell in drawn["customdata"]] == pytest.approx(logged, rel=2e-4)
    assert page.dataframe[1].value["n"].tolist() == [2, 2], "steps that a mean is over"
    page.button(key="to-evaluate").click().run()
    assert page.title[0].value == "Runs"


def test_the_points_are_the_measured_ones_and_the_control_is_drawn(
    monkeypatch, small_root: Path
) -> None:
    from lensbench.app.workflows.fronts import MEAN, evaluated

    result = evaluated(small_root / "runs" / "small")
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small")
    assert not page.exception
    recovered, fvu, *_ = figures(page)
    for figure, metric in ((recovered, "ce_recovered_zero"), (fvu, "fvu")):
        traces = {trace["name"]: trace for trace in figure["data"]}
        drawn = [float(cell[2]) for cell in traces["topk"]["customdata"]]
        known = [result.value(metric, name) for name in result.names]
        assert drawn == pytest.approx(known, rel=2e-4)
        assert any(name.startswith(MEAN) for name in traces)
    zero, mean, clean = (
        result.value(m) for m in ("ce_zero_ablated", "ce_mean_ablated", "ce_clean")
    )
    control = next(t for t in recovered["data"] if t["name"].startswith(MEAN))["customdata"][0]
    assert control == pytest.approx((zero - mean) / (zero - clean))
    assert next(t for t in fvu["data"] if t["name"].startswith(MEAN))["customdata"][0] == 1.0


def test_every_figure_has_axes_with_units_alt_text_and_a_caption_with_n(
    monkeypatch, small_root: Path
) -> None:
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small")
    for chart, figure in zip(page.get("plotly_chart"), figures(page), strict=True):
        assert chart.proto.alt
        for axis in ("xaxis", "yaxis"):
            assert figure["layout"][axis]["title"]["text"]
    assert "[latents per token]" in figures(page)[0]["layout"]["xaxis"]["title"]["text"]
    assert sum("n = " in str(caption.value) for caption in page.caption) >= 3


def test_the_code_beside_a_figure_makes_the_figure(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small")
    assert_made_again(page)


def assert_made_again(page: Any) -> None:
    """The first front: every marker as it is; of the control's line the ends and the name."""
    code = next(str(c.value) for c in page.code if "figure = front(" in str(c.value))
    (*made, control), (*shown, line) = (
        json.loads(run_code(code).to_json())["data"], figures(page)[0]["data"])  # fmt: skip
    assert made == shown
    assert [control[k] for k in "xy"] == [pytest.approx(line[k]) for k in "xy"]
    assert control["name"] == line["name"]


def test_the_data_to_take_away_are_the_drawn_ones(small_root: Path) -> None:
    from lensbench.app.workflows.exports import as_json
    from lensbench.app.workflows.fronts import evaluated, front_figure, front_frame

    frame = front_frame(evaluated(small_root / "runs" / "small"), "fvu")
    given = json.loads(as_json(frame))
    drawn = next(t for t in front_figure(frame, "fvu").data if t.name == "topk")
    own = [row for row in given["rows"] if row["architecture"] == "topk"]
    assert [row["fvu"] for row in own] == pytest.approx(list(drawn.y))
    assert [row["l0"] for row in own] == pytest.approx(list(drawn.x))
    assert given["units"]["fvu"] == "share of variance"
    assert given["rows"][-1]["low"] is None


def test_a_metric_that_was_not_measured_is_refused(small_root: Path) -> None:
    from lensbench.app.workflows.fronts import evaluated, front_frame
    from lensbench.errors import UnknownNameError

    with pytest.raises(UnknownNameError, match="ce_recovered_zero, fvu"):
        front_frame(evaluated(small_root / "runs" / "small"), "beauty")


def test_the_page_says_that_it_scores_training_rows_and_hides_no_metric(
    monkeypatch, small_root: Path
) -> None:
    from lensbench.app.workflows.fronts import evaluated

    result = evaluated(small_root / "runs" / "small")
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small")
    assert "cored on the rows it was trained on" in words(page)
    assert words(page).count("trained on") == 1
    tables = [table.value for table in page.dataframe]
    assert {m for t in tables for m in t.columns} >= set(result.metrics)
    assert all(len(t.columns) <= 7 for t in tables)
    assert list(tables[0]) == ["dictionary", "k"], "what was varied comes first"
    assert "ce_recovered_zero" in tables[1]
    assert "label F1 are means" not in words(page)
    assert "without an interval" in words(page)
    model = result.provenance.model
    assert f"model {model['name']} {model['fingerprint']}" in words(page)


def test_widths_are_told_apart_and_nothing_hides_another(small_root: Path) -> None:
    from lensbench.app.workflows.fronts import evaluated, front_figure, front_frame

    frame = front_frame(evaluated(small_root / "runs" / "small"), "fvu")
    frame.loc[1, ["d_sae", "l0", "fvu"]] = [128, frame.loc[0, "l0"], frame.loc[0, "fvu"]]
    drawn = front_figure(frame, "fvu")
    topk = next(t for t in drawn.data if t.name == "topk")
    assert topk.marker.size[0] < topk.marker.size[1]
    assert topk.marker.opacity < 0.9
    assert {"64 latents", "128 latents"} <= {t.name for t in drawn.data}
    assert "log" in drawn.layout.xaxis.title.text
    assert len(front_figure(front_frame(evaluated(small_root / "runs" / "small"), "fvu"),
                            "fvu").layout.xaxis.tickvals) >= 3  # fmt: skip


def test_the_library_draws_the_same_picture(small_root: Path) -> None:
    from lensbench.app.workflows.fronts import evaluated, front_figure, front_frame

    result = evaluated(small_root / "runs" / "small")
    page, own = front_figure(front_frame(result, "ce_recovered_zero"), "ce_recovered_zero"), None
    own = result.plot()
    assert own.layout.xaxis.type == page.layout.xaxis.type == "log"
    assert own.layout.yaxis.title.text.startswith("CE recovered [")
    for mine, theirs in zip(own.data[:2], page.data[:2], strict=True):
        assert mine.to_plotly_json()["x"].tolist() == theirs.to_plotly_json()["x"].tolist()


def test_the_reader_chooses_what_stands_against_l0(monkeypatch, small_root: Path) -> None:
    import numpy as np

    from lensbench.app.workflows.fronts import STRONGEST, evaluated

    result = evaluated(small_root / "runs" / "small")
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small", y2="Best-latent F1")
    assert not page.exception
    drawn = figures(page)[1]
    topk = next(t for t in drawn["data"] if t["name"] == "topk")
    labels = result.labels_frame()
    means = labels.groupby("name")["f1"].mean()
    shown = [float(cell[2]) for cell in topk["customdata"]]
    assert shown == pytest.approx([means[name] for name in result.names], rel=1e-3)
    controls = [c for c in labels if c.startswith("f1_")
                and c not in ("f1_low", "f1_high", "f1_selected")]  # fmt: skip
    scored = labels.loc[np.isfinite(labels["f1"])]
    strongest = scored[controls].max(axis=1).groupby(scored["name"]).mean().max()
    level = next(t for t in drawn["data"] if t["name"].startswith(STRONGEST))["customdata"][0]
    assert level == pytest.approx(strongest)
    assert "no interval" in drawn["layout"]["title"]["subtitle"]["text"]
    assert f"n = {int(np.isfinite(labels['f1']).sum() / 2)} labels" in words(page)
    page.selectbox(key="y").set_value("fvu").run()
    assert "FVU" in figures(page)[0]["layout"]["yaxis"]["title"]["text"]


def test_every_architecture_has_a_front_of_its_own() -> None:
    import pandas as pd

    from lensbench.saes.evaluation.front import front

    frame = pd.DataFrame({
        "name": list("abcdef"), "architecture": ["relu"] * 3 + ["topk"] * 3, "d_sae": [64] * 6,
        "l0": [8.0, 16, 32, 8, 16, 32], "fvu": [0.5, 0.4, 0.45, 0.3, 0.35, 0.2],
        "low": [0.1] * 6, "high": [0.6] * 6, "n": [9] * 6,
    })  # fmt: skip
    frame.attrs["units"] = {"l0": "latents per token", "fvu": "share of variance"}
    traces = {t.name: t for t in front(frame, "fvu", best="min", title="").data}
    assert list(traces["front of relu"].x) == [8, 16]
    assert list(traces["front of topk"].x) == [8, 32]
    assert list(traces["Pareto front"].y) == [0.3, 0.2]
    assert traces["front of relu"].line.color == traces["relu"].marker.color
    alone = frame.loc[frame["architecture"] == "relu"]
    alone.attrs.update(frame.attrs)
    assert not [t for t in front(alone, "fvu", best="min", title="").data
                if str(t.name).startswith("front of")]  # fmt: skip


def test_the_densities_of_all_dictionaries_add_up(monkeypatch, small_root: Path) -> None:
    from lensbench.app.workflows.densities import density_curves
    from lensbench.app.workflows.fronts import evaluated

    result = evaluated(small_root / "runs" / "small")
    frame = density_curves(result.density)
    whole = frame.groupby("dictionary")
    assert whole["latents"].sum().tolist() == [len(d) for d in result.density.values()]
    assert whole["share"].sum().tolist() == pytest.approx([1.0] * len(result.names))
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small")
    assert "Latents that never fired" in words(page)
    assert any("How often latents fire" in str(f["layout"]["title"]) for f in figures(page))


def test_tables_of_the_suite_are_shown_where_an_evaluation_holds_them(small_root: Path) -> None:
    from types import SimpleNamespace

    import numpy as np

    from lensbench import saes
    from lensbench.app.workflows.fronts import evaluated
    from lensbench.app.workflows.suite_tables import measures_of, missing_of, note_on, table_of

    plain = SimpleNamespace(names=("a",))
    assert measures_of(plain) == missing_of(plain) == {}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 8))
    truth = {"first": x[:, 0] > 0.5, "second": x[:, 1] > 0.5}
    found = saes.absorption(np.maximum(x, 0), saes.label_rows(truth), x, np.eye(8))
    held = SimpleNamespace(suite={"other": {"a": found}, "absorption": {"a": found, "b": found}},
                           left_out={"scr": "no pairs"})  # fmt: skip
    assert list(measures_of(held)) == ["absorption", "other"]
    table = table_of(held, "absorption")
    assert table["of dictionary"].tolist() == ["a", "a", "b", "b"]
    np.testing.assert_allclose(table["probe_f1"][:2], found.to_frame()["probe_f1"])
    assert "Controls" in note_on(held, "absorption")
    assert missing_of(held) == {"scr": "no pairs"}
    assert measures_of(evaluated(small_root / "runs" / "small")) is not None


def test_no_metric_is_hidden_by_the_groups() -> None:
    import pandas as pd

    from lensbench.app.workflows.fronts import score_groups

    names = ["l0", "fvu", *(f"new_{i}" for i in range(8))]
    table = pd.DataFrame([["a-lr1-s0", "s", "topk", *range(10)]],
                         columns=["name", "site", "architecture", *names])  # fmt: skip
    groups = score_groups(table)
    assert {c for part in groups.values() for c in part} == {"dictionary", *names}
    assert all(len(part.columns) <= 7 for part in groups.values())


@pytest.fixture(scope="module")
def three(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its copy with more tokens, and one that was evaluated on other rows."""
    from dataclasses import replace

    from lensbench.app.workflows.fronts import evaluated

    root = tmp_path_factory.mktemp("three")
    for name in ("one", "two", "other"):
        shutil.copytree(small_root / "runs" / "small", root / name)
    sweep = root / "two" / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("tokens: 4096", "tokens: 8192"))
    result = evaluated(root / "other")
    elsewhere = replace(result, provenance=replace(result.provenance, store="elsewhere"))
    shutil.rmtree(root / "other" / "evaluation")
    elsewhere.save(root / "other" / "evaluation")
    return root


def test_several_runs_stand_in_one_front(monkeypatch, three: Path) -> None:
    from lensbench.app.workflows.fronts import evaluated

    page = open_page(monkeypatch, three, "sweep", run="one")
    page.multiselect(key="with").set_value(["two"]).run()
    assert not page.exception
    drawn = {t["name"]: t for t in figures(page)[0]["data"]}
    assert {"one: topk", "two: topk"} <= set(drawn)
    result = evaluated(three / "one")
    known = [result.value("ce_recovered_zero", name) for name in result.names]
    for run in ("one", "two"):
        shown = [float(cell[2]) for cell in drawn[f"{run}: topk"]["customdata"]]
        assert shown == pytest.approx(known, rel=2e-4)
    varied, headline = page.dataframe[0].value, page.dataframe[1].value
    assert varied["train.tokens"].tolist() == [4096, 4096, 8192, 8192]
    assert headline["run"].tolist() == ["one", "one", "two", "two"]
    assert_made_again(page)


def test_runs_that_do_not_compare_are_left_out_and_named(monkeypatch, three: Path) -> None:
    page = open_page(monkeypatch, three, "sweep", run="one")
    page.multiselect(key="with").set_value(["two", "other"]).run()
    assert "other: it was evaluated on another store" in page.warning[0].value.replace("\\", "")
    assert page.dataframe[1].value["run"].tolist() == ["one", "one", "two", "two"]


def test_a_row_of_scores_opens_its_dictionary(monkeypatch, three: Path) -> None:
    from lensbench.app.widgets import fronts

    led: list[Any] = []
    monkeypatch.setattr(fronts, "go_to", lambda path, **query: led.append((path, query)))
    monkeypatch.setattr(fronts, "show_listing", lambda *_, **__: 1)
    page = open_page(monkeypatch, three, "sweep", run="one")
    assert not page.exception
    name = [*json.loads((three / "one" / "status.json").read_text())["dictionaries"]][1]
    assert led == [("latent", {"run": "one", "dictionary": name})]


def test_every_metric_has_its_own_control(monkeypatch, small_root: Path) -> None:
    from lensbench.app.workflows.fronts import RANDOM, control_of, drawable, evaluated

    result = evaluated(small_root / "runs" / "small")
    assert {"kl_recovered_zero", "cosine"} <= set(drawable(result))
    frame = result.to_frame()
    random = frame.loc[(frame["metric"] == "cosine") & (frame["source"] == "random_dictionary")]
    assert control_of(result, "cosine") == (RANDOM, pytest.approx(random["value"].max()))
    page = open_page(monkeypatch, small_root, "sweep", run="runs/small", y="Cosine")
    drawn = [t["name"] for t in figures(page)[0]["data"]]
    assert any(name.startswith(RANDOM) for name in drawn)
    assert "random directions" in words(page)


def test_what_was_varied_is_what_was_asked_for(tmp_path: Path) -> None:
    import yaml

    from lensbench.app.workflows.sweep_page import varied

    kinds = {"a": {"architecture": "topk", "k": 8, "aux": 0.1, "lr": None},
             "b": {"architecture": "topk", "k": 16, "aux": 0.1, "lr": None},
             "c": {"architecture": "relu", "l1": 2.0, "aux": 0.0, "lr": None}}  # fmt: skip
    asked = [{"architecture": "topk", "k": [8, 16]}, {"architecture": "relu", "l1": 2.0}]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"sweep": asked, "train": {"tokens": 9}}))
    status = dict.fromkeys(("step", "steps", "tokens"), 0) | {
        **dict.fromkeys(("state", "started", "heartbeat"), ""),
        "dictionaries": dict.fromkeys(kinds, "x"),
    }
    (tmp_path / "status.json").write_text(json.dumps(status))
    for name, config in kinds.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"name": name, **config}))
    frame = varied({"run": tmp_path})
    assert list(frame) == ["dictionary", "architecture", "k", "l1"], "aux differs by default only"
    assert frame["k"].tolist() == ["8", "16", "not set"]


def test_headings_are_for_people() -> None:
    from lensbench.app.workflows.sweep_page import heading

    told = ["ce_recovered_zero", "l0", "density_over_1_percent", "kl_reconstructed", "dictionary"]
    assert [heading(c) for c in told] == ["CE recovered (zero)", "L0", "Density over 1 percent",
                                          "KL(clean ‖ reconstructed)", "Dictionary"]  # fmt: skip
