"""Runs started from a page: real processes, followed from outside, stopped and gone on with."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.app.workflows import detached, forms, launching
from lensbench.app.workflows.curves import curves_of, settings_of
from lensbench.app.workflows.run_compare import settings as differing
from lensbench.app.workflows.run_compare import sides
from lensbench.app.workflows.runs import run_row
from lensbench.errors import ConfigError, MismatchError

SITE = "blocks.3.resid_post"


def settings(root: Path, **train: Any) -> dict[str, Any]:
    wanted = {"tokens": 4096, "batch_size": 256, "log_every": 2, **train}
    return forms.sweep_from(str(root / "acts"), SITE, "topk", {"d_sae": "32", "k": "2, 4"}, wanted)


def wait(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@pytest.fixture
def not_started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Processes that would have been started."""
    asked: list[list[str]] = []
    monkeypatch.setattr(detached, "start", lambda args, folder: asked.append([*args, str(folder)]))
    return asked


def test_a_run_is_followed_stopped_and_gone_on_with_to_its_end(
    small_root: Path, tmp_path: Path
) -> None:
    run = launching.new_run(tmp_path, "long", settings(small_root, tokens=40_000_000))

    def state() -> str:
        return str(run_row(run)["state"])

    assert state() == "queued"
    with pytest.raises(MismatchError, match="still running"):
        launching.resume_run(run)
    wait(lambda: len(curves_of(run)) > 2, "the first logged steps")
    assert state() == "running"
    launching.stop_run(run)
    wait(lambda: state() == "stopped", "the checkpoint")
    done = run_row(run)["step"]
    assert 0 < done < 40_000_000 // 256
    assert list(run.glob("*/checkpoints/step_*")), "a checkpoint was written"
    with pytest.raises(MismatchError, match="no process"):
        launching.stop_run(run)
    launching.resume_run(run)
    wait(lambda: curves_of(run)["step"].max() > done, "steps after the checkpoint")
    launching.stop_run(run)
    wait(lambda: state() == "stopped", "the second checkpoint")
    job = json.loads((run / "job.json").read_text())
    wait(lambda: not detached.is_running(job), "the end of the process")
    steps = curves_of(run).query("name == @curves_of(@run).name.iloc[0]")["step"].tolist()
    assert steps == sorted(set(steps)), "the curve goes on where it was"


def test_the_run_is_queued_before_its_process_exists(
    small_root: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(detached, "start", lambda _, folder: seen.append(run_row(folder)["state"]))
    run = launching.new_run(tmp_path, "first", settings(small_root))
    assert seen == ["queued"]
    row = run_row(run)
    assert (row["dictionaries"], row["steps"]) == (2, 16)


def test_a_run_whose_process_died_is_lost_and_one_that_was_stopped_is_not(
    small_root: Path, tmp_path: Path, not_started
) -> None:
    run = launching.new_run(tmp_path, "dead", settings(small_root))
    job = {"pid": 999_999_999, "command": [], "started": ""}
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "heartbeat": "2026-01-01T00:00:00Z"}))
    (run / "job.json").write_text(json.dumps(job))
    assert run_row(run)["state"] == "lost"
    (run / "job.json").write_text(json.dumps({**job, "stopping": True}))
    assert run_row(run)["state"] == "stopped"
    launching.resume_run(run)  # it never began: it is started anew, with what was asked for
    assert not_started[-1][:3] == ["train", "sae", "--config"]


def test_another_process_with_the_same_number_is_not_ours() -> None:
    job = {"pid": os.getpid(), "command": [], "started": ""}
    assert not detached.is_running(job), "pytest is no run of lensbench"


@pytest.mark.usefixtures("not_started")
def test_only_the_runs_own_process_is_signalled(small_root, tmp_path, monkeypatch) -> None:
    run = launching.new_run(tmp_path, "other", settings(small_root))
    (run / "job.json").write_text(json.dumps({"pid": os.getpid(), "command": [], "started": ""}))
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda pid, sig: sent.append((pid, sig)) if sig else None)
    with pytest.raises(MismatchError):
        launching.stop_run(run)
    assert (os.getpid(), signal.SIGTERM) not in sent


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 101])
def test_a_name_that_is_no_folder_is_refused(small_root, tmp_path, not_started, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a run"):
        launching.new_run(tmp_path, name, settings(small_root))
    assert not (tmp_path / "runs").exists()
    assert not not_started


def test_a_name_that_is_taken_is_refused(small_root, tmp_path, not_started) -> None:
    launching.new_run(tmp_path, "same", settings(small_root))
    with pytest.raises(ConfigError, match="there already"):
        launching.new_run(tmp_path, "same", settings(small_root))
    assert len(not_started) == 1


def test_settings_with_a_fault_start_nothing(small_root, tmp_path, not_started) -> None:
    entry, train = {"d_sae": 8, "k": 9}, {"tokens": 4096}
    bad = forms.sweep_from(str(small_root), SITE, "topk", entry, train)
    with pytest.raises(ConfigError, match="k must be in"):
        launching.new_run(tmp_path, "bad", bad)
    assert not (tmp_path / "runs").exists()
    assert not not_started


def test_a_forecast_trains_nothing(small_root: Path) -> None:
    told = launching.forecast(settings(small_root))
    assert told["dictionaries"] == 2
    assert told["steps"] == 16


def test_the_form_has_every_setting_of_the_schema_and_its_bounds() -> None:
    from lensbench.saes.architectures import ARCHITECTURES
    from lensbench.saes.configs import LISTS, TrainConfig

    for name, config in ARCHITECTURES.items():
        have = {f.name for f in forms.dictionary_fields(name)}
        assert have == set(config.model_fields) - {*forms.CHOSEN, *LISTS}
    fields = {f.name: f for f in forms.train_fields()}
    assert set(fields) == set(TrainConfig.model_fields) - {"sinks"}  # a list: in a sweep file
    assert (fields["warmup"].low, fields["warmup"].high) == (0, 1)
    assert fields["engine"].choices == ("auto", "dense", "screened", "stacked")
    assert fields["deterministic"].kind == "bool"
    assert "metrics.jsonl" in fields["log_every"].help


def test_an_untouched_form_asks_for_the_schemas_own_defaults(tmp_path: Path) -> None:
    from lensbench.saes.configs import SweepConfig

    sweep = SweepConfig.parse(
        forms.sweep_from(str(tmp_path), SITE, "relu", {"d_sae": 64}, {"tokens": 4096})
    )
    entry = {"architecture": "relu", "d_sae": 64, "site": SITE}
    source, train = {"store": str(tmp_path)}, {"tokens": 4096}
    plain = SweepConfig.parse({"source": source, "train": train, "sweep": [entry]})
    assert sweep == plain


@pytest.mark.usefixtures("not_started")
def test_differences_name_each_setting_that_differs_and_no_other(small_root, tmp_path) -> None:
    one = launching.new_run(tmp_path, "one", settings(small_root))
    other = launching.new_run(tmp_path, "other", settings(small_root, tokens=8192))
    frame = differing(*sides(one, other))
    assert frame.to_numpy().tolist() == [["train.tokens", "4096", "8192"]]
    assert differing(*sides(one, one)).empty
    assert settings_of(one)["sweep[0].k"] == [2, 4]


def test_a_torn_last_line_is_left_out_of_the_curves(small_root, tmp_path) -> None:
    import shutil

    shutil.copytree(small_root / "runs" / "small", tmp_path / "run")
    whole = curves_of(tmp_path / "run")
    path = next((tmp_path / "run").glob("topk-64-k8*/metrics.jsonl"))
    path.write_text(path.read_text() + '{"step": 99, "fv')
    assert curves_of(tmp_path / "run").equals(whole)
