"""Compare: settings first, whether numbers compare, and what is drawn is what was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.app.driver import open_page, words
from tests.app.tiny_root import spec_of, values

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def two(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same dictionaries; the second asked for more tokens."""
    root = tmp_path_factory.mktemp("two")
    for name in ("one", "other"):
        shutil.copytree(small_root / "runs" / "small", root / name)
    sweep = root / "other" / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("tokens: 4096", "tokens: 8192"))
    return root


def evaluation_with(run: Path, **changes: Any) -> None:
    """The evaluation of a run, as if it had been another."""
    from dataclasses import replace

    from lensbench.app.workflows.runs import evaluation_of

    result = evaluation_of(run)
    assert result is not None
    shutil.rmtree(run / "evaluation")
    replace(result, **changes).save(run / "evaluation")


def names_of(run: Path) -> list[str]:
    return list(json.loads((run / "status.json").read_text())["dictionaries"])


def test_an_empty_folder_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "compare")
    assert "lensbench demo" in words(page)


def test_nothing_is_chosen_for_the_reader(monkeypatch, two: Path) -> None:
    page = open_page(monkeypatch, two, "compare")
    assert page.selectbox(key="one").value is None
    assert "Choose two runs" in page.info[0].value
    page.selectbox(key="one").set_value("one").run()
    page.selectbox(key="other").set_value("one").run()
    assert "the same twice" in page.info[0].value


def test_settings_that_differ_come_first(monkeypatch, two: Path) -> None:
    page = open_page(monkeypatch, two, "compare", one="one", other="other")
    assert not page.exception
    assert page.header[0].value == "Settings that differ"
    table = page.dataframe[0].value
    assert table.to_numpy().tolist() == [["train.tokens", "4096", "8192"]]
    assert list(table) == ["setting", "one", "other"]
    assert f"lensbench runs diff {two}/one {two}/other" in words(page)


def test_what_they_reach_is_the_evaluation_with_its_intervals(monkeypatch, two: Path) -> None:
    from lensbench.app.workflows.runs import evaluation_of

    page = open_page(monkeypatch, two, "compare", one="one", other="other")
    result = evaluation_of(two / "one")
    assert result is not None
    table = page.dataframe[1].value
    assert table["run"].tolist() == ["one", "one", "other", "other"]
    value, low, high = result.values[0, result.metrics.index("fvu")]
    assert table["FVU"][0] == f"{value:.4g} [{low:.4g}, {high:.4g}]"


def test_two_dictionaries_of_one_run_stand_beside_their_controls(monkeypatch, two: Path) -> None:
    from lensbench.app.workflows.runs import evaluation_of

    first, second = names_of(two / "one")
    query = {"one": "one", "other": "one", "one-dictionary": first, "other-dictionary": second}
    page = open_page(monkeypatch, two, "compare", **query)
    assert not page.exception
    assert page.dataframe[0].value["setting"].tolist() == ["k"]
    numbers = page.dataframe[1].value
    fvu = numbers.loc[numbers["metric"].str.startswith("FVU")].iloc[0]
    result = evaluation_of(two / "one")
    assert result is not None
    frame = result.to_frame()
    random = frame.loc[(frame["name"] == first) & (frame["metric"] == "fvu")
                       & (frame["source"] == "random_dictionary"), "value"].iloc[0]  # fmt: skip
    assert f"random dictionary {random:.4g}" in fvu.iloc[3]


def test_matched_latents_are_those_of_the_library(monkeypatch, two: Path) -> None:
    from lensbench import saes

    first, second = names_of(two / "one")
    query = {"one": "one", "other": "other", "one-dictionary": first, "other-dictionary": second}
    page = open_page(monkeypatch, two, "compare", **query)
    a, b = (next(r for r in saes.open_runs(two / run) if r.name == name).coder
            for run, name in (("one", first), ("other", second)))  # fmt: skip
    found = saes.match_dictionaries(a, b)
    table = next(d.value for d in page.dataframe if "nearest" in d.value)
    assert table["cosine"].iloc[0] == pytest.approx(
        max(found.best_a_to_b.max(), found.best_b_to_a.max())
    )
    assert f"{found.mmcs_a_to_b.mean:.3f}" in words(page)
    assert "random" in words(page)


def test_wide_dictionaries_are_matched_when_asked(monkeypatch, two: Path) -> None:
    from lensbench.app.workflows import compare_figures

    monkeypatch.setattr(compare_figures, "QUICK_PAIRS", 1)
    first, second = names_of(two / "one")
    query = {"one": "one", "other": "other", "one-dictionary": second, "other-dictionary": first}
    page = open_page(monkeypatch, two, "compare", **query)
    assert not [d for d in page.dataframe if "nearest" in d.value]
    page.button(key="match").click().run()
    assert [d for d in page.dataframe if "nearest" in d.value]
    page.selectbox(key="curve").set_value("l0").run()
    assert [d for d in page.dataframe if "nearest" in d.value], "asked once is enough"
    monkeypatch.setattr(compare_figures, "MOST_PAIRS", 1)
    query |= {"one-dictionary": first}
    page = open_page(monkeypatch, two, "compare", **query)
    page.button(key="match").click().run()
    assert "too many to match" in page.error[0].value


def test_the_curves_of_both_are_overlaid_and_paired_by_colour(monkeypatch, two: Path) -> None:
    page = open_page(monkeypatch, two, "compare", one="one", other="other", curve="L0")
    figure = spec_of(page, 0)
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert list(traces) == [f"{run}: topk-64-k{k}" for run in ("one", "other") for k in (4, 8)]
    a, b = traces["one: topk-64-k4"], traces["other: topk-64-k4"]
    assert a["line"]["color"] == b["line"]["color"] != traces["one: topk-64-k8"]["line"]["color"]
    assert (a["line"]["dash"], b["line"]["dash"]) == ("solid", "dash")
    folder = next((two / "one").glob("topk-64-k4*"))
    logged = [json.loads(t)["l0"] for t in (folder / "metrics.jsonl").read_text().splitlines()]
    assert values(a["y"]).tolist() == pytest.approx(logged)


def test_the_code_beside_every_figure_runs(monkeypatch, two: Path) -> None:
    first, second = names_of(two / "one")
    query = {"one": "one", "other": "other", "one-dictionary": first, "other-dictionary": second}
    page = open_page(monkeypatch, two, "compare", **query)
    codes = [str(c.value) for c in page.code if "left, right = sides" in str(c.value)]
    figures = [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]
    tables = ("compared(", "reached(", "nearest_frame(")  # of which test_app_tables knows
    codes = [c for c in codes if not c.strip().splitlines()[-1].startswith(tables)]
    for code, figure in zip(codes, figures, strict=True):
        *body, last = code.strip().splitlines()
        scope: dict[str, Any] = {}
        exec("\n".join([*body, f"made = {last}"]), scope)
        assert json.loads(scope["made"].to_json())["data"] == figure["data"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("store", "evaluated on other rows"),
        ("tokens", "another number of tokens"),
        ("seen", "not the text it was trained on"),
        ("gone", "the other has only means over its training"),
        ("model", "another model"),
    ],
)
def test_what_keeps_numbers_from_comparing_is_said(
    monkeypatch, two: Path, tmp_path: Path, change: str, said: str
) -> None:
    from dataclasses import replace

    from lensbench.app.workflows.runs import evaluation_of

    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "other"
    result = evaluation_of(run)
    assert result is not None
    if change == "store":
        evaluation_with(run, provenance=replace(result.provenance, store="another"))
    elif change == "tokens":
        evaluation_with(run, n_tokens=17)
    elif change == "seen":
        evaluation_with(run, seen=dict.fromkeys(result.names, "no"))
    elif change == "gone":
        shutil.rmtree(run / "evaluation")
    else:
        told = json.loads((run / "provenance.json").read_text())
        told["model"]["fingerprint"] = "other"
        (run / "provenance.json").write_text(json.dumps(told))
    page = open_page(monkeypatch, tmp_path, "compare", one="one", other="other")
    assert not page.exception
    assert said in page.warning[0].value.replace("\\", "")
    page = open_page(monkeypatch, tmp_path, "compare", one="one", other="one")
    assert not page.warning


def test_what_compares_says_so_and_on_what_it_was_trained(monkeypatch, two: Path) -> None:
    page = open_page(monkeypatch, two, "compare", one="one", other="other")
    assert not page.warning
    assert "a difference of two numbers is one of the dictionaries" in page.success[0].value
    assert "scored on the rows it was trained on" in words(page)


def test_the_same_settings_are_said(monkeypatch, two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "one", tmp_path / "a")
    shutil.copytree(two / "one", tmp_path / "b")
    page = open_page(monkeypatch, tmp_path, "compare", one="a", other="b")
    assert "same settings" in page.success[0].value


def test_a_damaged_run_is_told_in_words(monkeypatch, two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    (tmp_path / "other" / "status.json").write_text("{")
    page = open_page(monkeypatch, tmp_path, "compare", one="one", other="other")
    assert not page.exception
    assert "status.json" in page.error[0].value.replace("\\", "")


def test_the_comparison_is_one_json_document(two: Path) -> None:
    from lensbench.app.workflows.run_compare import compare_runs
    from lensbench.errors import UnknownNameError

    first, second = names_of(two / "one")
    told = json.loads(json.dumps(compare_runs(two / "one", two / "other"), allow_nan=False))
    assert told["settings"] == [{"setting": "train.tokens", "one": "4096", "other": "8192"}]
    assert told["not_comparable"] == []
    assert {row["source"] for row in told["reached"]} > {"dictionary", "random dictionary"}
    told = compare_runs(two / "one", two / "one", first, second)
    assert {row["dictionary"] for row in told["reached"]} == {first, second}
    with pytest.raises(UnknownNameError, match="topk-64-k4"):
        compare_runs(two / "one", two / "other", "topk-64-k5")
