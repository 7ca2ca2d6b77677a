"""Long sweeps, attributions and dose curves: jobs that are started, followed, kept and repeated."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensbench import io
from lensbench.app.workflows import (
    detached,
    dose_jobs,
    effort,
    jobs,
    patch_jobs,
    steer_jobs,
    work,
)
from lensbench.app.workflows.patching import PatchAsk, kept, patch
from lensbench.app.workflows.steering import SteerAsk, steer
from lensbench.app.workflows.steering_beside import BesideAsk
from lensbench.app.workflows.steering_doses import _made, alike
from lensbench.errors import ConfigError
from tests.app.driver import open_page, words
from tests.app.test_app_jobs import wait

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODEL = {"model": "atlas-dense"}
SWEEP = {**MODEL, "task": "recall", "n": "4", "site": "Heads (all tokens)"}
APART = ("patch",)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes long, and no process is started."""
    monkeypatch.setattr(effort, "AT_ONCE", 0.0)
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)


def buttons(page: Any) -> set[str]:
    return {b.key for b in page.button}


def bar(page: Any) -> str:
    return page.get("progress")[0].proto.text.replace("\\", "")


def told(root: Path, **change: Any) -> None:
    """Write what the one job of a folder is said to be."""
    [job] = jobs.all_jobs(root)
    told_of(root, job.name, **change)


def told_of(root: Path, name: str, **change: Any) -> None:
    path = root / "jobs" / name / "status.json"
    io.write_json(path, {**io.read_json(path), "heartbeat": detached.now(), **change})


PLACES = [
    ("patching", "start-sweep", SWEEP, "lensbench patch recall --model atlas-dense"),
    ("steering", "start-doses",
     {**MODEL, "direction": "A prompt task", "doses": "true", "new": "2"},
     "lensbench steer agreement --model atlas-dense"),
    ("steering", "start-prompt-doses", {**MODEL, "doses": "true", "new": "2"},
     "lensbench doses --prompt 'I think the knife'"),
]  # fmt: skip


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize(("path", "key", "query", "command"), PLACES, ids=lambda x: str(x)[:12])
def test_long_work_waits_for_a_click_and_is_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, key: str, query: Any, command: str
) -> None:
    page = open_page(monkeypatch, tmp_path, path, **query)
    assert not page.exception
    charts = len(page.get("plotly_chart"))
    said = words(page)
    assert command in said
    assert "ms each as timed here" in said
    assert jobs.all_jobs(tmp_path) == []
    page.button(key=key).click().run()
    assert not page.exception
    [job] = jobs.all_jobs(tmp_path)
    assert key not in buttons(page)
    other = open_page(monkeypatch, tmp_path, path, **query)
    assert f"stop-{job.name}" in buttons(other), "the same job in another tab"
    told(tmp_path, done=3, total=12, unit="runs", state="running")
    assert bar(open_page(monkeypatch, tmp_path, path, **query)) == r"running: 3 of 12 runs, 0 s"
    for state, message in (("failed", "no such place"), ("stopped", "going on begins again")):
        told(tmp_path, state=state, message=message)
        page = open_page(monkeypatch, tmp_path, path, **query)
        assert message in words(page)
        assert {f"go-on-{job.name}", f"forget-{job.name}"} <= buttons(page)
        assert len(page.get("plotly_chart")) == charts
    told(tmp_path, state="running", heartbeat="2026-01-01T00:00:00Z")
    page = open_page(monkeypatch, tmp_path, path, **query)
    assert bar(page).startswith("lost: its process is gone")
    page.button(key=f"forget-{job.name}").click().run()
    assert key in buttons(page)


def test_a_long_attribution_waits_below_its_map(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    ask = PatchAsk("recall", sites=("attn.z",), positions="together", n=4)
    between = (patch_jobs.cost(ask)[2].seconds + patch_jobs.check_cost(ask, "ig").seconds) / 2
    monkeypatch.setattr(effort, "AT_ONCE", between)
    page = open_page(monkeypatch, tmp_path, "patching", **SWEEP, estimate="true",
                     method="Integrated gradients of activations")  # fmt: skip
    assert not page.exception
    assert len(page.get("plotly_chart")) == 2, "the map itself is short"
    page.button(key="start-check").click().run()
    [job] = jobs.all_jobs(tmp_path, "attribute")
    assert "--verify --out" in job.command
    assert "--method ig --direction denoise" in job.command


def test_a_long_look_at_held_out_pairs_waits_and_is_kept(
    monkeypatch: pytest.MonkeyPatch, done: Path
) -> None:
    ask = swept()
    assert patch_jobs.place_cost(ask).seconds < patch_jobs.cost(ask)[2].seconds * 2
    kept(ask)
    monkeypatch.setattr(effort.Effort, "short", property(lambda e: e.passes != 4 * 41))
    monkeypatch.setattr(detached, "start", lambda *_, **__: None)
    page = open_page(monkeypatch, done, "patching", **SWEEP, place="block 0, head 3")
    assert not page.exception
    assert "other places drawn at random move it as far" in words(page), "what the job has left"
    assert {"run-again-place", "remove-place"} <= buttons(page)
    page.selectbox(key="place").set_value("block 0, head 1").run()
    assert "start-place" in buttons(page)
    page.button(key="start-place").click().run()
    assert not page.exception
    [job] = [j for j in jobs.all_jobs(done, "place") if j.live]
    assert "--verify --place 'block 0, head 1'" in job.command
    told_of(done, job.name, state="stopped")
    jobs.remove(done, job.name)


def test_what_the_model_says_waits_where_it_is_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(effort.Effort, "short", property(lambda e: e.passes != 3 * 4))
    page = open_page(monkeypatch, tmp_path, "patching", **SWEEP)
    assert not page.exception
    before = next(f.value for f in page.dataframe if "effect" in f.value)
    assert "says now" not in before
    page.button(key="say-pairs").click().run()
    after = next(f.value for f in page.dataframe if "effect" in f.value)
    assert "says now" in after
    assert before["effect"].tolist() == after["effect"].tolist()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which five jobs were run, one of them in a process of its own."""
    root = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patched:
        for kind, settings in asked(root).items():
            if kind not in APART:
                patched.setattr(work.signal, "signal", lambda *_: None)
                patched.setattr(detached, "start", lambda _, folder, **__: work.main(folder))
            if "pairs" in settings:
                patch_jobs.keep_pairs(settings, own())
            jobs.start(root, kind, Path(settings["out"]).name, settings)
            patched.undo()
    wait(lambda: not any(j.live for j in jobs.all_jobs(root)), "five jobs")
    wait(lambda: not any(map(detached.still_there, (root / "jobs").iterdir())), "its process")
    return root


def own() -> PatchAsk:
    from lensbench.app.workflows.patch_pairs import sample_rows

    return PatchAsk("recall", n=4, own=sample_rows("atlas-dense"))


def swept() -> PatchAsk:
    return PatchAsk("recall", sites=("attn.z",), positions="together", n=4)


def dosed() -> SteerAsk:
    return SteerAsk("agreement", source="subject", layer=0, n=32, random=2, shuffled=2,
                    new_tokens=2)  # fmt: skip


def prompted() -> BesideAsk:
    return BesideAsk("atlas-dense", "I think the knife", plus=("The doors", "The women"),
                     minus=("The door", "The woman"), layer=0, new_tokens=2)  # fmt: skip


def asked(root: Path) -> dict[str, dict[str, Any]]:
    return {"patch": patch_jobs.sweep_settings(root, own()),
            "attribute": patch_jobs.check_settings(root, swept(), "atp"),
            "place": patch_jobs.place_settings(root, swept(), 3),
            "steer": steer_jobs.settings_of(root, dosed()),
            "doses": dose_jobs.settings_of(root, prompted())}  # fmt: skip


def test_a_job_leaves_what_the_call_gives_bit_for_bit(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows import patch_cell, steering_kept
    from lensbench.results import load

    told = {j.kind: (j.state, j.message) for j in jobs.all_jobs(done)}
    assert told == dict.fromkeys(asked(done), ("finished", ""))
    monkeypatch.setattr(effort, "AT_ONCE", 0.0)
    for found, made in (
        (patch_jobs.swept(done, own()), patch(own())),
        (patch_jobs.checked(done, swept(), "atp"), patch_cell.checked(swept(), "atp")),
        (patch_jobs.place_check(asked(done)["place"]), patch_cell.verify(swept(), 3)),
        (dose_jobs.doses_for(done, prompted()), _made(prompted())),
    ):
        same(found, made)
    doses, made = steer_jobs.doses_for(done, dosed()), steer(dosed())
    assert doses is not None
    same(doses.result, made.result)
    same(doses.direction, made.direction)
    for name in ("made_of", "tested_on", "n_made_of", "texts"):
        assert getattr(doses, name) == getattr(made, name)
    assert steering_kept.kept(dosed()) is doses, "it is not made again"
    estimates = load(Path(asked(done)["attribute"]["out"]))
    assert (estimates.method, estimates.n) == ("atp", 4), (
        "the estimates of all places lie there too"
    )


def same(a: Any, b: Any) -> None:
    """Equal in all but when and in how long it was made."""
    assert a is not None
    inner = getattr(a, "found", None)
    more = {} if inner is None else {"found": replace(inner, provenance=b.found.provenance)}
    assert replace(a, provenance=b.provenance, **more) == b


def test_bars_tell_how_far_a_job_is(done: Path) -> None:
    found = {j.kind: (j.done, j.total, j.unit) for j in jobs.all_jobs(done)}
    n = len(patch(own()).site) + 20
    assert found["patch"][0] == found["patch"][1]
    assert found["patch"][1] in (4 * n, 8 * n)
    assert found["steer"][0] == found["steer"][1]
    assert found["steer"][1] % (5 * 3 * 2) == 0, "five directions, three strengths, run and written"


@pytest.mark.parametrize("kind", ["patch", "place", "attribute", "steer", "doses"])
def test_the_command_of_a_job_is_one_that_exists(done: Path, kind: str) -> None:
    import typer.main

    from lensbench.app.cli.main import read_flags
    from lensbench.app.cli.root import build

    settings = asked(done)[kind]
    args, _ = read_flags(shlex.split(jobs.command_of(kind, settings))[1:])
    command = typer.main.get_command(build())
    _, sub, rest = command.resolve_command(
        command.make_context("x", [], resilient_parsing=True), args
    )
    given = sub.make_context(kind, rest).params
    assert str(given["out"]) == settings["out"]
    if kind == "steer":
        assert (given["layer"], given["source"], given["random"]) == (0, "subject", 2)
    if kind == "doses":
        assert (given["layer"], given["plus"]) == (0, ["The doors", "The women"])
    if kind == "place":
        assert (given["place"], given["verify"]) == ("block 0, head 3", True)
    if kind == "attribute":
        assert (given["sites"], given["positions"]) == (["attn.z"], "together")
        assert given["verify"]


def test_what_is_kept_is_drawn_and_can_be_repeated_or_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(work.signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))
    monkeypatch.setattr(effort, "AT_ONCE", 0.0)
    page = open_page(monkeypatch, tmp_path, "patching", **SWEEP)
    page.button(key="start-sweep").click().run()
    assert not page.exception
    assert len(page.get("plotly_chart")) == 2
    again = open_page(monkeypatch, tmp_path, "patching", **SWEEP)
    assert len(again.get("plotly_chart")) == 2, "F5"
    [first] = jobs.all_jobs(tmp_path)
    again.button(key="run-again-patch").click().run()
    assert len(again.get("plotly_chart")) == 2
    [second] = jobs.all_jobs(tmp_path)
    assert second.name == first.name
    again.button(key="remove-patch").click().run()
    assert not again.exception
    assert "start-sweep" in buttons(again)
    assert not again.get("plotly_chart"), "nothing of it is left in memory"
    assert jobs.all_jobs(tmp_path) == []
    assert list((tmp_path / "patching").iterdir()) == []


@pytest.mark.usefixtures("long")
def test_typed_pairs_are_kept_where_the_command_reads_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = open_page(monkeypatch, tmp_path, "patching", **MODEL, of="My own pairs")
    assert not page.exception
    [file] = (tmp_path / "patching").glob("pairs-*.json")
    assert f"--pairs {file}" in words(page)
    page.button(key="start-sweep").click().run()
    [job] = jobs.all_jobs(tmp_path, "patch")
    assert job.settings["pairs"] == str(file)


def test_another_model_of_the_name_has_studies_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = patch_jobs.sweep_settings(tmp_path, swept())["out"]
    monkeypatch.setattr(patch_jobs, "_model", lambda _: "other weights")
    assert patch_jobs.sweep_settings(tmp_path, swept())["out"] != first


def test_an_effort_is_counted_and_timed() -> None:
    short, more = PatchAsk("recall", n=4), PatchAsk("recall", n=64)
    one, other = patch_jobs.cost(short)[2], patch_jobs.cost(more)[2]
    assert other.passes == 16 * one.passes
    assert 0 < one.each < 1
    assert patch_jobs.check_cost(short, "ig").seconds > patch_jobs.check_cost(short, "atp").seconds
    assert effort.Effort(7_200, 1.0).told.startswith("about 2.0 h")


def test_doses_are_asked_for_in_one_way_and_the_command_line_has_all_of_them(
    tmp_path: Path, small_root: Path
) -> None:
    import numpy as np

    np.save(tmp_path / "v.npy", np.ones(128, dtype=np.float32))
    run = small_root / "runs" / "small"
    name = next(run.glob("topk-64-k8*")).name
    task = SteerAsk("recall", "atlas-dense", towards="boat", layer=2, source="value",
                    method="pca_diff", n=32, new_tokens=8)  # fmt: skip
    file = str(tmp_path / "v.npy")
    for ask in (
        prompted(),
        BesideAsk("atlas-dense", "a dog", "task", task=task, where="all"),
        BesideAsk("atlas-dense", "a dog", "file", file=file, layer=3, seed=4),
        BesideAsk("", "a dog", "latent", run=str(run), dictionary=name, latent=3, strength=2.0),
    ):
        assert dose_jobs.ask_of(dose_jobs.settings_of(tmp_path, ask)) == replace(
            alike(ask), strength=1.0
        )
    for ways in ({}, {"task": "recall", "vector": file}):
        with pytest.raises(ConfigError, match="in one way"):
            dose_jobs.ask_of({"prompt": "a dog", "new_tokens": 2, **ways})


def test_the_command_says_what_the_page_draws(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from lensbench.app.cli import main

    line = dose_jobs.command_of(dose_jobs.settings_of(Path(), prompted()))
    words = shlex.split(line)[1:]
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["kl"] for r in rows] == _made(prompted()).to_frame()["kl"].tolist()
    assert main([*words, "--at", "before"]) == 2
    assert "all" in capsys.readouterr().err


def test_a_place_to_verify_is_named_and_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from lensbench.app.cli import main
    from lensbench.results import load

    line = ["patch", "recall", "--n", "4", "--sites", "attn.z", "--positions", "together"]
    named = ["--place", "block 0, head 3"]
    assert main([*line, *named]) == 2
    assert "add --verify" in capsys.readouterr().err
    assert main([*line, "--verify", "--place", "block 0 head 3"]) == 2
    assert "Did you mean 'block 0, head 3'" in capsys.readouterr().err
    assert main([*line, "--verify", *named, "--out", str(tmp_path / "s")]) == 0
    assert load(tmp_path / "s" / "verified").place == "block 0, head 3"
