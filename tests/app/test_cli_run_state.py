"""What a run says of itself: lost as soon as its process is, steps that are left, who is best."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.app.cli_workspace import NAMES
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer, refused, run

DEAD = {"state": "running", "step": 3, "steps": 9, "tokens": 768, "started": "2026-01-01T00:00:00Z",
        "message": "", "dictionaries": {"a": "running"}}  # fmt: skip


def status(folder: Path, who: dict[str, Any]) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    folder.mkdir(exist_ok=True)
    (folder / "status.json").write_text(json.dumps({**DEAD, "heartbeat": now, **who}))


def test_a_run_whose_process_was_killed_is_lost_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench import process

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    told = {"pid": child.pid, "birth": process.birth(child.pid), "host": process.host()}
    status(tmp_path / "here", told)
    status(tmp_path / "elsewhere", {**told, "host": "another"})
    status(tmp_path / "old", {"pid": child.pid})

    def states() -> dict[str, str]:
        rows = answer(capsys, "runs", "ls", tmp_path)["runs"]
        return {Path(row["run"]).name: row["state"] for row in rows}

    assert set(states().values()) == {"running"}
    child.kill()
    child.communicate()
    assert states() == {"here": "lost", "elsewhere": "running", "old": "running"}


def test_a_run_that_writes_says_who_it_is(workspace: Path) -> None:
    told = json.loads((workspace / "demo-run" / "run" / "status.json").read_text())
    assert {"pid", "birth", "host"} <= set(told)


def test_a_forecast_of_a_resumed_run_counts_what_is_left(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, source = tmp_path / "run", workspace / "demo-run" / "run"
    shutil.copytree(source, run)
    line = ("train", "sae", "--resume", run, "--dry-run")
    assert answer(capsys, *line)["steps_left"] == 0  # it is finished
    told = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**told, "state": "stopped"}))
    for name, step in zip(NAMES, (4, 8), strict=True):
        shutil.rmtree(run / name / "checkpoints", ignore_errors=True)
        place = run / name / "checkpoints" / f"step_{step:08d}"
        place.mkdir(parents=True)
        (place / "state.json").write_text("{}")
    facts = answer(capsys, *line)
    assert (facts["steps"], facts["steps_left"]) == (16, 12)  # the one that is least far
    assert facts["seconds"] == pytest.approx(12 * facts["seconds_per_step"])
    assert any("12 of 16 are left" in row for row in facts["lines"])


def test_the_best_is_looked_for_among_all_processes_dictionaries(tmp_path: Path) -> None:
    """Rank 0 speaks for all ranks; theirs are read from what they logged."""
    from lensbench.saes.distributed.folder import RankFolder
    from lensbench.saes.training.reporting import Reporter

    job: Any = type("Job", (), {"rank": 0, "world": 2})()
    folder = RankFolder(tmp_path, ["mine", "theirs"], job, apart=True)
    folder.own = ["mine"]
    row = {"step": 4, "fvu": 0.5, "l0": 8.0, "dead_fraction": 0.0}
    (tmp_path / "theirs").mkdir()
    lines = [{**row, "step": step, "fvu": 0.1} for step in (2, 6)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "theirs" / "metrics.jsonl").write_text(text + '{"step": 8, "fv')
    reporter: Any = Reporter.__new__(Reporter)
    said: list[str] = []
    reporter._folder, reporter._history, reporter.say = folder, {"mine": [row]}, said.append
    reporter._train = type("Train", (), {"steps": 8, "batch_size": 16})()
    reporter.speak(4, 1.0)
    assert "best theirs: fvu 0.1000" in said[0]
    folder.own = ["mine", "theirs"]  # control: alone, it knows only its own
    reporter.speak(4, 1.0)
    assert "best mine: fvu 0.5000" in said[1]


def part(folder: Path, name: str, state: str = "finished", step: int = 10) -> Path:
    """A part of an array, as far as its state is read."""
    place = folder / name
    place.mkdir(parents=True)
    told = {**DEAD, "state": state, "step": step, "steps": 10, "tokens": step * 100, "pid": 0,
            "heartbeat": "2026-01-01T00:00:00Z", "dictionaries": {name: state}}  # fmt: skip
    (place / "status.json").write_text(json.dumps(told))
    (place / "sweep.yaml").write_text("train: {tokens: 100}\nsweep: []\n")
    return place


def test_an_array_is_finished_when_every_part_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = tmp_path / "array"
    part(array, "part-2-of-4")

    def row() -> dict[str, Any]:
        [found] = answer(capsys, "runs", "ls", tmp_path)["runs"]
        return {
            k: found[k] for k in ("state", "parts", "parts_finished", "step", "steps", "tokens")
        }

    assert row() == {"state": "incomplete", "parts": 4, "parts_finished": 1, "step": 10,
                     "steps": 40, "tokens": 1000}  # fmt: skip
    assert run("runs", "ls", tmp_path) == 0
    assert "1 of 4 parts" in capsys.readouterr().out
    assert answer(capsys, "runs", "ls", tmp_path, "--state", "incomplete")["runs"]
    assert not answer(capsys, "runs", "ls", tmp_path, "--state", "finished")["runs"]
    part(array, "part-1-of-4", "stopped", 3)
    assert (row()["state"], row()["step"], row()["tokens"]) == ("stopped", 13, 1300)
    facts = answer(capsys, "runs", "show", array)
    assert [(p["part"], p["state"], p["step"]) for p in facts["each_part"]] == [
        ("part-1-of-4", "stopped", 3), ("part-2-of-4", "finished", 10),
        ("part-3-of-4", "not started", 0), ("part-4-of-4", "not started", 0),
    ]  # fmt: skip
    assert [("--resume" in c, "--array 3/4" in c, "--array 4/4" in c)
            for c in facts["to_finish"]] == [
        (True, False, False), (False, True, False), (False, False, True)]  # fmt: skip
    assert run("runs", "show", array) == 0
    assert "stopped, 1 of 4 parts finished" in capsys.readouterr().out
    for name in ("part-1-of-4", "part-2-of-4"):
        shutil.rmtree(array / name)
    for i in range(1, 5):
        part(array, f"part-{i}-of-4")
    assert row() == {"state": "finished", "parts": 4, "parts_finished": 4, "step": 40,
                     "steps": 40, "tokens": 4000}  # fmt: skip


def test_a_damaged_part_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = tmp_path / "array"
    part(array, "part-1-of-2")
    (part(array, "part-2-of-2") / "status.json").write_text('{"state": "fin')
    [row] = answer(capsys, "runs", "ls", tmp_path)["runs"]
    assert (row["state"], row["parts_finished"], row["tokens"]) == ("damaged", 1, 1000)
    facts = answer(capsys, "runs", "show", array)
    assert [p["state"] for p in facts["each_part"]] == ["finished", "damaged"]
    assert [d["name"] for d in facts["dictionaries"]] == ["part-1-of-2"]


def test_parts_of_arrays_say_what_is_left_and_belong_to_one_sweep(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = ("train", "sae", "--store", workspace / "demo-run" / "acts", "--sites",
            "blocks.3.resid_post", "--d-sae", 32, "--tokens", 512, "--set", "train.batch=256",
            "--out", out)  # fmt: skip
    answer(capsys, *line, "--k", "2,3", "--array", "1/4")
    facts = answer(capsys, "runs", "show", out)
    assert (facts["parts"], facts["parts_finished"]) == (2, 1), "only two parts have a dictionary"
    assert len(facts["sweep"]["sweep"]) == 1
    [command] = facts["to_finish"]
    assert "--array 2/4" in command
    assert "parts of another sweep" in refused(capsys, *line, "--k", "2,5", "--array", "2/4")
    assert run(*command.split()[1:]) == 0  # what is offered does it
    capsys.readouterr()
    assert answer(capsys, "runs", "ls", tmp_path)["runs"][0]["state"] == "finished"
    assert {d["state"] for d in answer(capsys, "runs", "show", out)["dictionaries"]} == {"finished"}


def test_going_on_with_what_is_finished_says_so_and_what_is_next(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = tmp_path / "done"
    shutil.copytree(workspace / "demo-run" / "run", done)
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    facts = answer(capsys, "train", "sae", "--resume", done)
    assert facts["finished"] is True
    assert f"{done} is finished: 2 dictionaries, 16 steps, 4,096 tokens" in facts["message"]
    assert facts["next"]["a page of what it reached"] == f"lensbench report {done}"
    assert run("train", "sae", "--resume", done) == 0
    assert "Nothing is left to train" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    shutil.rmtree(done / "evaluation")
    then = answer(capsys, "train", "sae", "--resume", done)["next"]
    assert then["measure it"].endswith("--model atlas-dense")
    longer = then["train longer or otherwise"].replace("ANOTHER", str(tmp_path / "longer"))
    line = shlex.split(longer.replace("--tokens N", "--tokens 8192"))[1:]
    assert answer(capsys, *line, "--dry-run")["steps"] == 32
    shutil.rmtree(done / NAMES[0] / "result")
    assert f"results that are gone: {NAMES[0]}" in answer(
        capsys, "train", "sae", "--resume", done)["message"]  # fmt: skip
    shutil.rmtree(done / NAMES[1] / "result")
    said = refused(capsys, "train", "sae", "--resume", done)
    assert "says that it is finished, but none of its 2 dictionaries" in said


def test_what_cannot_be_gone_on_with_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = tmp_path / "array"
    part(array, "part-1-of-2", "stopped")
    said = refused(capsys, "train", "sae", "--resume", array)
    assert "a part is gone on with at a time" in said
    assert f"--resume {array / 'part-1-of-2'}" in said
    assert "--array 2/2" in said
    bare = part(tmp_path, "bare", "lost")
    (bare / "sweep.yaml").unlink()
    assert "has lost its sweep.yaml" in refused(capsys, "train", "sae", "--resume", bare)
    (bare / "request.yaml").write_text("train: {tokens: 100}\n")
    assert "never began; start it with" in refused(capsys, "train", "sae", "--resume", bare)
    (tmp_path / "empty").mkdir()
    assert "no run in" in refused(capsys, "train", "sae", "--resume", tmp_path / "empty")


def test_what_is_damaged_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = part(tmp_path, "cut", "stopped")
    (cut / "status.json").write_text('{"state": "st')
    assert f"--resume {cut} then goes on" in refused(capsys, "runs", "show", cut)
    assert "Remove that file" in refused(capsys, "runs", "rm", cut, "--yes")
    (cut / "status.json").write_text('{"state": "finished", "new": 1}')
    assert "step, steps, tokens" in refused(capsys, "runs", "show", cut)
    (cut / "status.json").unlink()
    assert "killed before it began" in refused(capsys, "runs", "show", cut)
    lost = part(tmp_path, "lost", "running", 4)
    facts = answer(capsys, "runs", "show", lost)
    assert (facts["state"], [d["state"] for d in facts["dictionaries"]]) == ("lost", ["lost"])
    assert facts["to_finish"] == [f"lensbench train sae --resume {lost}"]


def test_a_result_of_a_newer_version_is_called_that(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(workspace / "demo-run" / "run", newer)
    path = newer / NAMES[0] / "result" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    said = refused(capsys, "runs", "export", newer, "--out", tmp_path / "out")
    assert "schema 99: it was written by a newer lensbench" in said


def test_several_processes_are_gone_on_with_as_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.workflows.training import going_on

    assert going_on(tmp_path) == f"lensbench train sae --resume {tmp_path}"
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
                        "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert going_on(tmp_path).startswith("torchrun --nproc-per-node 2 --no-python lensbench train")


def test_a_process_that_does_not_speak_writes_its_log_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lensbench.saes.training.folder import RunFolder
    from lensbench.saes.training.reporting import Reporter

    for speaks in (False, True):
        reporter: Any = Reporter.__new__(Reporter)
        reporter._folder, reporter._progress, reporter._bar = RunFolder(tmp_path, []), speaks, None
        reporter.say("told")
        assert capsys.readouterr().err == ("told\n" if speaks else "")
    assert (tmp_path / "log.txt").read_text().count("told") == 2
