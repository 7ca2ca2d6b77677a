"""Runs: the list, the curves, the form, the comparison."""

import json
import shutil
from pathlib import Path

import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FORM = "Start a run"


def test_an_empty_folder_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "runs")
    assert "lensbench demo" in words(page)


def test_runs_are_listed_with_their_state(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "runs")
    assert page.dataframe[0].value["state"].tolist() == ["finished"]


def test_the_curves_are_what_was_logged(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "runs", run="runs/small")
    assert not page.exception
    figure = json.loads(page.get("plotly_chart")[0].proto.spec)
    for trace in figure["data"]:
        folder = next((small_root / "runs" / "small").glob(f"{trace['name']}*"))
        logged = [json.loads(t)["fvu"] for t in (folder / "metrics.jsonl").read_text().splitlines()]
        drawn = [float(cell[1]) for cell in trace["customdata"]]
        assert drawn == pytest.approx(logged, rel=2e-4)
    assert "[share of variance]" in figure["layout"]["yaxis"]["title"]["text"]


def test_a_finished_run_can_be_neither_stopped_nor_gone_on_with(
    monkeypatch, small_root: Path
) -> None:
    page = open_page(monkeypatch, small_root, "runs", run="runs/small")
    assert not [b for b in page.button if b.key in ("stop", "resume")]


def test_a_stopped_run_offers_to_go_on(monkeypatch, small_root: Path, tmp_path: Path) -> None:
    from lensbench.app.workflows import detached

    shutil.copytree(small_root / "runs", tmp_path / "runs")
    path = tmp_path / "runs" / "small" / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "stopped"}))
    asked: list[list[str]] = []
    monkeypatch.setattr(detached, "start", lambda args, _: asked.append(list(args)))
    page = open_page(monkeypatch, tmp_path, "runs", run="runs/small")
    page.button(key="resume").click().run()
    assert asked == [["train", "sae", "--resume", str(tmp_path / "runs" / "small")]]


def test_a_damaged_run_is_told_in_words(monkeypatch, small_root: Path, tmp_path: Path) -> None:
    shutil.copytree(small_root / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "small" / "status.json").write_text("{")
    page = open_page(monkeypatch, tmp_path, "runs", run="runs/small")
    assert not page.exception
    assert "status.json" in page.error[0].value.replace("\\", "")


def test_the_form_starts_what_it_was_filled_with(monkeypatch, small_root, tmp_path) -> None:
    import yaml

    from lensbench.app.workflows import detached

    shutil.copytree(small_root / "acts", tmp_path / "acts")
    monkeypatch.setattr(detached, "start", lambda *_: None)
    page = open_page(monkeypatch, tmp_path, "runs", do=FORM)
    page.selectbox(key="new-architecture").set_value("batchtopk").run()
    page.text_input(key="new-batchtopk-d_sae").set_value("64")
    page.text_input(key="new-batchtopk-k").set_value("4, 8")
    page.number_input(key="new-train-tokens").set_value(4096)
    page.text_input(key="new-name").set_value("mine")
    next(b for b in page.button if b.label == "Start training").click()
    page.run()
    assert not page.exception
    assert not page.error
    asked = yaml.safe_load((tmp_path / "runs" / "mine" / "request.yaml").read_text())
    assert asked["train"]["tokens"] == 4096
    assert asked["sweep"] == [
        {"architecture": "batchtopk", "site": "blocks.3.resid_post", "d_sae": 64, "k": [4, 8]}
    ]
    assert page.selectbox(key="run").value == "runs/mine", "the new run is opened"


def test_a_fault_in_the_form_is_told_and_nothing_is_started(
    monkeypatch, small_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_root / "acts", tmp_path / "acts")
    page = open_page(monkeypatch, tmp_path, "runs", do=FORM)
    page.text_input(key="new-topk-k").set_value("9000")
    next(b for b in page.button if b.label == "Start training").click()
    page.run()
    assert "k must be in 1..d" in page.error[0].value.replace("\\", "")
    assert not (tmp_path / "runs").exists()


def test_the_form_shows_the_same_as_a_command(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "runs", do=FORM)
    assert "lensbench train sae --config sweep.yaml" in words(page)


def test_without_a_store_the_form_says_how_to_capture_one(monkeypatch, tmp_path: Path) -> None:
    page = open_page(monkeypatch, tmp_path, "runs", do=FORM)
    assert "lensbench capture" in words(page)


def test_the_reader_chooses_the_curve_and_zeros_are_drawn(monkeypatch, small_root: Path) -> None:
    from lensbench.app.workflows.curves import curve_figure, curves_of, logged

    page = open_page(monkeypatch, small_root, "runs", run="runs/small", curve="Dead fraction")
    assert not page.exception
    frame = curves_of(small_root / "runs" / "small")
    figure, drawn = curve_figure(frame, "dead_fraction")
    assert len(drawn) == len(frame)
    assert figure.layout.yaxis.type != "log"
    assert list(logged(frame))[:3] == ["fvu", "l0", "dead_fraction"]
    shown = json.loads(page.get("plotly_chart")[0].proto.spec)
    assert "Dead fraction" in shown["layout"]["yaxis"]["title"]["text"]
