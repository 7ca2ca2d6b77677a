"""Runs: the list, the curves, what can be done with one."""

import json
import shutil
from pathlib import Path

import pytest

from tests.app.drawn import run_code
from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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


def test_of_many_dictionaries_the_chosen_ones_are_coloured_and_all_are_drawn() -> None:
    import pandas as pd

    from lensbench.app.workflows.curves import COLOURED, GREY, caption, curve_figure

    names = [f"topk-64-k{i}" for i in range(1, 65)]
    frame = pd.DataFrame([
        {"name": n, "step": s, "tokens": s * 256, "fvu": 1 / s + i} for i, n in enumerate(names)
        for s in (1, 2, 3)
    ])  # fmt: skip
    figure, drawn = curve_figure(frame, "fvu", over="step", chosen=names[40:42])
    assert len(figure.data) == 64
    assert len(drawn) == len(frame)
    coloured = [t.name for t in figure.data if t.line.color != GREY]
    assert coloured == names[40:42]
    assert [t.name for t in figure.data if t.showlegend is not False] == coloured
    assert list(figure.data[-1].x) == [1, 2, 3]
    assert sum(t.line.color != GREY for t in curve_figure(frame, "fvu")[0].data) == COLOURED
    assert "The other 56 are grey" in caption(frame)


def test_curves_are_drawn_over_steps_when_asked(monkeypatch, small_root: Path) -> None:
    page = open_page(monkeypatch, small_root, "runs", run="runs/small")
    page.radio(key="over").set_value("step").run()
    shown = json.loads(page.get("plotly_chart")[0].proto.spec)
    assert shown["layout"]["xaxis"]["title"]["text"].startswith("steps")
    assert "not smoothed" in words(page)


def test_the_code_of_a_curve_draws_it(small_root: Path) -> None:
    from lensbench.app.workflows.curve_code import curve_code
    from lensbench.app.workflows.curves import curves_of

    run = small_root / "runs" / "small"
    made = run_code(curve_code(run, "l0", "step", ["topk-64-k8"], curves_of(run)))
    assert [t.name for t in made.data] == ["topk-64-k4", "topk-64-k8"]


def test_a_run_is_evaluated_as_a_job_and_only_once(monkeypatch, small_root, tmp_path) -> None:
    from lensbench.app.workflows import detached, jobs

    shutil.copytree(small_root, tmp_path / "root")
    root = tmp_path / "root"
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, root, "runs", run="runs/small")
    assert "evaluated already" in words(page)
    assert not [b for b in page.button if b.key == "start-evaluate"]
    page.checkbox(key="again").check().run()
    page.number_input(key="sequences").set_value(8)
    page.button(key="start-evaluate").click().run()
    assert not page.exception
    [job] = jobs.all_jobs(root, "evaluate")
    assert job.settings == {
        "run": str(root / "runs" / "small"), "store": str(root / "acts"), "model": "atlas-dense",
        "suite": "core,labels", "ce_sequences": 8, "twin": False, "overwrite": True,
    }  # fmt: skip
    assert "lensbench eval sae" in words(page)
    page.button(key="start-evaluate").click().run()
    assert "going on already" in words(page).replace("\\", "")


def test_latents_are_kept_as_a_job(monkeypatch, small_root: Path, tmp_path: Path) -> None:
    from lensbench.app.workflows import detached, jobs

    shutil.copytree(small_root, tmp_path / "root")
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, tmp_path / "root", "runs", run="runs/small")
    name = page.selectbox(key="encode-name").options[1]
    page.selectbox(key="encode-name").set_value(name).run()
    page.button(key="start-encode").click().run()
    [job] = jobs.all_jobs(tmp_path / "root", "encode")
    assert job.settings["dictionary"].endswith(f"runs/small/{name}")


def test_a_run_is_removed_only_when_it_is_confirmed(monkeypatch, small_root, tmp_path) -> None:
    shutil.copytree(small_root / "runs", tmp_path / "runs")
    page = open_page(monkeypatch, tmp_path, "runs", run="runs/small")
    assert "would be gone for good" in words(page)
    assert (tmp_path / "runs" / "small").is_dir()
    page.button(key="remove-sure").click().run()
    assert not (tmp_path / "runs" / "small").exists()
    assert not page.exception


def test_a_run_that_goes_on_cannot_be_removed(monkeypatch, small_root, tmp_path) -> None:
    import os

    shutil.copytree(small_root / "runs", tmp_path / "runs")
    path = tmp_path / "runs" / "small" / "status.json"
    now = {"state": "running", "heartbeat": "2999-01-01T00:00:00Z", "pid": os.getpid()}
    path.write_text(json.dumps({**json.loads(path.read_text()), **now}))
    page = open_page(monkeypatch, tmp_path, "runs", run="runs/small")
    assert not [b for b in page.button if b.key in ("remove-sure", "start-evaluate")]
    assert [b for b in page.button if b.key == "stop"]


@pytest.fixture
def array(small_root: Path, tmp_path: Path) -> Path:
    """A root with one run: part 2 of an array of 4, finished."""
    shutil.copytree(small_root / "runs" / "small", tmp_path / "runs" / "grid" / "part-2-of-4")
    shutil.rmtree(tmp_path / "runs" / "grid" / "part-2-of-4" / "evaluation")
    return tmp_path


def test_an_array_of_which_a_part_is_missing_is_nowhere_called_finished(
    monkeypatch, array: Path
) -> None:
    assert open_page(monkeypatch, array, "runs").dataframe[0].value["state"].tolist() == [
        "1 of 4 parts"
    ]
    home = open_page(monkeypatch, array)
    assert "1 of 4 parts" in [
        d.value["state"].tolist()[0] for d in home.dataframe if "run" in d.value
    ]
    assert "--array 1/4" in words(home), "the next step is to train what is left"
    page = open_page(monkeypatch, array, "runs", run="runs/grid")
    assert not page.exception
    assert page.metric[0].value == "1 of 4 parts"
    assert page.dataframe[0].value["state"].tolist() == [
        "not started", "finished", "not started", "not started"
    ]  # fmt: skip
    assert "3 of 4 parts are left" in words(page)
    assert not [b for b in page.button if b.key in ("stop", "resume")]
    sweep = open_page(monkeypatch, array, "sweep", run="runs/grid")
    assert "is not finished (1 of 4 parts)" in words(sweep).replace("\\", "")
    sweep.button(key="unfinished-runs/grid").click().run()
    assert "3 of 4 parts are left" in words(sweep)


def test_a_whole_array_is_finished(monkeypatch, array: Path) -> None:
    first = array / "runs" / "grid" / "part-2-of-4"
    for i in (1, 3, 4):
        shutil.copytree(first, first.with_name(f"part-{i}-of-4"))
    page = open_page(monkeypatch, array, "runs", run="runs/grid")
    assert page.metric[0].value == "finished"
    steps = json.loads((first / "status.json").read_text())["steps"]
    assert f"step {4 * steps:,} of {4 * steps:,}" in page.get("progress")[0].proto.text
    sweep = open_page(monkeypatch, array, "sweep", run="runs/grid")
    assert "is not finished" not in words(sweep)
