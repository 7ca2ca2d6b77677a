"""Jobs of pages: real processes that are followed, stopped, killed and gone on with."""

import inspect
import json
import os
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from lensbench.app.workflows import capturing, detached, jobs, work
from lensbench.app.workflows.runs import list_runs
from lensbench.errors import ConfigError, MismatchError, MissingDataError, UnknownNameError

OLD = "2026-01-01T00:00:00Z"


def wait(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def wanted(root: Path, **changed: Any) -> dict[str, Any]:
    return {"model": "atlas-dense", "text": "atlas:900", "out": str(root / "acts"),
            "profile": "resid", **changed}  # fmt: skip


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store that holds what was captured."""
    kept = [*store.glob("acts/**/*.safetensors"), *store.glob("tokens/*"), store / "manifest.json"]
    return {str(path.relative_to(store)): path.read_bytes() for path in kept}


@pytest.fixture
def not_started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Processes that would have been started."""
    asked: list[list[str]] = []
    monkeypatch.setattr(detached, "start", lambda args, *_, **__: asked.append([*args]))
    return asked


def aged(root: Path, name: str, **change: Any) -> None:
    """A job whose process fell silent long ago."""
    path = root / "jobs" / name / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "heartbeat": OLD, **change}))


def test_a_capture_that_is_killed_is_lost_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = wanted(whole)
    capturing.capture_text(settings.pop("model"), settings.pop("text"),
                           out=Path(settings.pop("out")), **settings)  # fmt: skip
    name = jobs.start(killed, "capture", "acts", wanted(killed), expects=13_000)
    assert jobs.look(killed, name).state == "queued"
    parts = killed / "acts" / "parts"
    wait(lambda: any(parts.glob("b*.json")), "the first shards")
    os.kill(detached.job_of(killed / "jobs" / name)["pid"], signal.SIGKILL)
    wait(lambda: not detached.still_there(killed / "jobs" / name), "its end")
    there = {p.name: p.stat().st_mtime_ns for p in parts.glob("b*.json")}
    assert not (killed / "acts" / "manifest.json").read_text().count('"complete": true')
    aged(killed, name)
    assert jobs.look(killed, name).state == "lost"
    kept = {n: (killed / "acts" / "tokens" / f"{n[:-5]}.safetensors").stat().st_mtime_ns
            for n in there}  # fmt: skip
    jobs.go_on(killed, name)
    wait(lambda: not jobs.look(killed, name).live, "the rest")
    job = jobs.look(killed, name)
    assert (job.state, job.message) == ("finished", "")
    assert files(killed / "acts") == files(whole / "acts")
    for n, before in kept.items():
        path = killed / "acts" / "tokens" / f"{n[:-5]}.safetensors"
        assert path.stat().st_mtime_ns == before, "shards that were finished are not made again"
    assert job.total == 13_000
    assert job.result["documents"] == 900


def test_a_job_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    name = jobs.start(tmp_path, "capture", "acts", wanted(tmp_path))
    wait(lambda: jobs.look(tmp_path, name).done > 0, "the first tokens")
    assert jobs.look(tmp_path, name).state == "running"
    with pytest.raises(MismatchError, match="going on already"):
        jobs.start(tmp_path, "capture", "acts", wanted(tmp_path))
    with pytest.raises(MismatchError, match="going on already"):
        jobs.remove(tmp_path, name)
    jobs.stop(tmp_path, name)
    wait(lambda: not jobs.look(tmp_path, name).live, "its end")
    job = jobs.look(tmp_path, name)
    assert job.state == "stopped"
    assert "after the last finished shard" in job.message
    with pytest.raises(MismatchError, match="ended already"):
        jobs.stop(tmp_path, name)
    jobs.remove(tmp_path, name)
    assert jobs.all_jobs(tmp_path) == []
    assert (tmp_path / "acts" / "manifest.json").is_file(), "what it made stays"


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    name = jobs.start(tmp_path, "capture", "acts", wanted(tmp_path, model="atlas-moe"))
    wait(lambda: not jobs.look(tmp_path, name).live, "its end")
    job = jobs.look(tmp_path, name)
    assert job.state == "failed"
    assert "does not know the words of atlas; what fits it: desk:N" in job.message
    assert "does not know" in jobs.log_of(tmp_path, name)


def test_the_job_is_queued_before_its_process_exists(tmp_path: Path, monkeypatch) -> None:
    seen: list[str] = []
    state = lambda folder: jobs.look(tmp_path, folder.name).state  # noqa: E731 - one use
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: seen.append(state(folder)))
    jobs.start(tmp_path, "capture", "acts", wanted(tmp_path))
    assert seen == ["queued"]


def test_of_two_tabs_that_start_the_same_the_second_is_refused(tmp_path: Path, not_started) -> None:
    together, refused = Barrier(4), []

    def ask() -> None:
        together.wait()
        try:
            jobs.start(tmp_path, "capture", "acts", wanted(tmp_path))
        except MismatchError as error:
            refused.append(str(error))

    tabs = [Thread(target=ask) for _ in range(4)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(not_started) == 1
    assert len(refused) == 3
    assert all("another tab" in said for said in refused)


def test_names_are_folders_and_do_not_meet(tmp_path: Path, not_started) -> None:
    one = jobs.start(tmp_path, "capture", "a/b", wanted(tmp_path))
    other = jobs.start(tmp_path, "capture", "a%2Fb", wanted(tmp_path))
    up = jobs.start(tmp_path, "capture", "../../up", wanted(tmp_path))
    assert len({one, other, up}) == 3
    assert {p.parent for p in (tmp_path / "jobs").iterdir()} == {tmp_path / "jobs"}
    assert [j.target for j in jobs.all_jobs(tmp_path)].count("../../up") == 1
    with pytest.raises(MissingDataError, match="no job"):
        jobs.look(tmp_path, "../jobs/" + one)
    assert len(not_started) == 3


def test_the_end_of_a_job_tells_how_it_came(tmp_path: Path, not_started) -> None:
    name = jobs.start(tmp_path, "verify", "acts", {"store": str(tmp_path / "acts")})
    with pytest.raises(MismatchError, match="going on already"):
        jobs.go_on(tmp_path, name)
    aged(tmp_path, name)
    assert jobs.look(tmp_path, name).state == "lost"
    (tmp_path / "jobs" / name / "job.json").write_text('{"pid": 0, "stopping": true}')
    assert jobs.look(tmp_path, name).state == "stopped"
    jobs.go_on(tmp_path, name)
    assert len(not_started) == 2
    aged(tmp_path, name, state="finished")
    with pytest.raises(ConfigError, match="finished"):
        jobs.go_on(tmp_path, name)
    jobs.start(tmp_path, "verify", "acts", {"store": str(tmp_path / "acts")})  # once more


@pytest.mark.usefixtures("not_started")
def test_jobs_are_no_runs(tmp_path: Path) -> None:
    jobs.start(tmp_path, "verify", "acts", {"store": str(tmp_path / "acts")})
    assert list_runs(tmp_path)["runs"] == []


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="capture"):
        jobs.start(tmp_path, "captur", "acts", {})
    assert set(jobs.KINDS) == set(work.WORK)
    for kind, call in work.WORK.items():  # those named by module and function, imported when asked
        named = inspect.getclosurevars(call).nonlocals
        if named:
            module = import_module(f"lensbench.app.workflows.{named['module']}")
            assert callable(getattr(module, named["name"])), kind


@pytest.mark.parametrize(
    ("kind", "settings", "command"),
    [
        ("capture", {"model": "m", "text": "atlas:2", "out": "o", "sites": ["a", "b.*"]},
         "lensbench capture --model m --text atlas:2 --out o --sites a --sites 'b.*'"),
        ("evaluate", {"run": "r", "store": "s", "model": "m", "twin": True, "overwrite": False},
         "lensbench eval sae r --store s --model m --twin"),
        ("encode", {"dictionary": "r/d", "store": "s"}, "lensbench encode r/d --store s"),
        ("share", {"name": "r/d", "format": "sae_lens", "out": "o"},
         "lensbench runs export r/d --format sae_lens --out o"),
        ("tune", {"store": "s", "out": "o", "set": {"steps": 3, "seed": 1}},
         "lensbench lens tune --store s --out o --set steps=3 --set seed=1"),
        ("probes", {"store": "s", "labels": ["a", "b"], "site": ["x"], "no_twin": True,
                    "out": "o"},
         "lensbench probe linear --store s --labels a --labels b --site x --no-twin --out o"),
        ("hd", {"model": "m", "task": "question", "after": True, "out": "o"},
         "lensbench probe hd --model m --task question --after --out o"),
        ("verify", {"store": "s"}, "lensbench store verify s"),
        ("study", {"model": "no-such", "prompts": "desk:9", "says": ["no"], "top": 3, "draws": 20,
                   "out": "o"},
         "lensbench experts suppress --model no-such --prompts desk:9 --says no --top 3 --draws 20 "
         "--out o"),
        ("rates", {"model": "no-such", "prompts": "desk:9", "weight": {"1:6": "-1", "2:3": "0.5"},
                   "out": "o"},
         "lensbench experts rates --model no-such --prompts desk:9 --weight 1:6=-1 "
         "--weight 2:3=0.5 --out o"),
        ("live", {"model": "no-such", "store": "s", "methods": "del,fixed_exit(exit_layer=1)",
                  "live": True, "texts": 2, "out": "o"},
         "lensbench accelerate --model no-such --store s --methods "
         "'del,fixed_exit(exit_layer=1)' --live --texts 2 --out o"),
        ("own", {"model": "no-such", "prompts": "s", "new_tokens": 9, "keep": "k",
                 "text_only": True},
         "lensbench accelerate --model no-such --prompts s --new-tokens 9 --keep k --text-only"),
        ("geometry", {"measure": "dimension", "store": ["a", "b"], "control": ["c"], "out": "o"},
         "lensbench probe geometry --measure dimension --store a --store b --control c --out o"),
    ],
)  # fmt: skip
def test_the_command_of_a_job_is_one_that_exists(kind: str, settings: Any, command: str) -> None:
    import shlex

    import typer.main

    from lensbench.app.cli.main import read_flags
    from lensbench.app.cli.root import build

    assert jobs.command_of(kind, settings) == command
    args, _ = read_flags(shlex.split(command)[1:])
    with pytest.raises(
        Exception, match=r"^(no folder|no model|--text|no activation|no dictionary|no run).*"
    ):
        typer.main.get_command(build())(args, standalone_mode=False)  # its options are known


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, at once."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(detached, "start", lambda _, folder, **__: work.main(folder))


@pytest.mark.usefixtures("here")
def test_every_kind_of_work_does_what_its_command_does(small_root: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_root, tmp_path / "root")
    root, run = tmp_path / "root", tmp_path / "root" / "runs" / "small"
    store, name = str(root / "acts"), next(run.glob("topk-64-k8*")).name
    asked = {
        "verify": {"store": store},
        "encode": {"dictionary": str(run / name), "store": store},
        "evaluate": {"run": str(run), "store": store, "model": "atlas-dense", "suite": "core",
                     "ce_sequences": 4, "overwrite": True},
        "share": {"name": str(run / name), "format": "sae_lens", "out": str(tmp_path / "out")},
    }  # fmt: skip
    found = {kind: jobs.look(root, jobs.start(root, kind, kind, told))
             for kind, told in asked.items()}  # fmt: skip
    assert {job.state for job in found.values()} == {"finished"}, found
    assert found["verify"].result["files"] == len(list((root / "acts").glob("**/b*.safetensors")))
    assert found["encode"].result["l0"] == pytest.approx(8)
    assert found["encode"].done == found["encode"].result["tokens"]
    assert found["evaluate"].result == {"dictionaries": 2}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "cfg.json", "sae_weights.safetensors", "SHA256SUMS"}  # fmt: skip


@pytest.mark.usefixtures("here")
def test_a_damaged_store_fails_the_check_and_is_named(small_root: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_root / "acts", tmp_path / "acts")
    path = sorted((tmp_path / "acts" / "acts").rglob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01"[:1])
    name = jobs.start(tmp_path, "verify", "acts", {"store": str(tmp_path / "acts")})
    job = jobs.look(tmp_path, name)
    assert job.state == "failed"
    assert path.stem in job.message


@pytest.mark.usefixtures("here")
def test_a_bug_is_called_one(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(work.WORK, "verify", lambda *_: {}["no"])
    job = jobs.look(tmp_path, jobs.start(tmp_path, "verify", "acts", {"store": "s"}))
    assert job.message == "this is a bug in lensbench: KeyError: 'no'"
    assert "Traceback" in capsys.readouterr().err
