"""What a run says of itself: lost as soon as its process is, steps that are left, who is best."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.app.cli_workspace import NAMES
from tests.app.cli_workspace import workspace as workspace
from tests.app.commands import answer

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
