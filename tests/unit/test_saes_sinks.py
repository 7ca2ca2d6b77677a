"""Metrics beside the run folder: the same lines, and no failure of theirs reaches the run."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_saes_resume import Killed, _kill_at_write
from tests.unit.test_saes_training import Source, StopAfter, _same, _sweep, _train


class Recorder:
    """A sink that keeps what it gets, and fails where it is told to."""

    made: list["Recorder"]
    fails_at: str

    def __init__(self, run: Path, configs: Mapping[str, Any], step: int) -> None:
        self._fail("open")
        self.run, self.configs, self.step = run, configs, step
        self.lines: list[tuple[str, dict[str, float]]] = []
        self.state = ""
        Recorder.made.append(self)

    def _fail(self, where: str) -> None:
        if Recorder.fails_at == where:
            raise RuntimeError(f"{where} did not work")

    def log(self, name: str, line: Mapping[str, float]) -> None:
        self._fail("log")
        self.lines.append((name, dict(line)))

    def close(self, state: str) -> None:
        self._fail("close")
        self.state = state


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    from lensbench.saes.training import sinks

    Recorder.made, Recorder.fails_at = [], ""
    monkeypatch.setitem(sinks.SINKS, "wandb", Recorder)
    monkeypatch.setattr(sinks, "find_spec", lambda _name: object())
    return Recorder


def _local(run: Path) -> list[tuple[str, dict[str, float]]]:
    return sorted(
        ((p.parent.name, json.loads(line)) for p in run.glob("*/metrics.jsonl")
         for line in p.read_text().splitlines()),
        key=lambda pair: (pair[1]["step"], pair[0]),
    )  # fmt: skip


def _ordered(lines: list[tuple[str, dict[str, float]]]) -> list[tuple[str, dict[str, float]]]:
    return sorted(lines, key=lambda pair: (pair[1]["step"], pair[0]))


def test_a_sink_gets_every_line_of_the_local_log(recorder: Any, tmp_path: Path) -> None:
    runs = _train(Source(), _sweep(sinks=["wandb"]), out=tmp_path)
    (one,) = recorder.made
    assert (one.run, one.step, one.state) == (tmp_path, 0, "finished")
    assert {n: c["architecture"] for n, c in one.configs.items()} == {
        run.name: run.config["architecture"] for run in runs
    }
    assert len(one.lines) == 4 * 6
    assert _ordered(one.lines) == _local(tmp_path)
    plain = _train(Source(), _sweep())
    assert all(_same(a, b) for a, b in zip(plain, runs, strict=True))


def test_a_resumed_run_says_from_which_step(
    recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import StoppedError

    with monkeypatch.context() as patch:
        _kill_at_write(patch, 9)
        with pytest.raises(Killed):
            _train(Source(), _sweep(sinks=["wandb"]), out=tmp_path)
    assert recorder.made[0].state == "failed"
    with pytest.raises(StoppedError):
        _train(StopAfter(3), _sweep(sinks=["wandb"]), out=tmp_path, resume=True)
    assert (recorder.made[1].step, recorder.made[1].state) == (20, "stopped")
    _train(Source(), _sweep(), out=tmp_path, resume=True)  # sinks may be left out
    assert len(recorder.made) == 2


@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_sink_that_fails_is_left_out_and_the_run_goes_on(
    where: str, recorder: Any, tmp_path: Path
) -> None:
    recorder.fails_at = where
    runs = _train(Source(), _sweep(sinks=["wandb"]), out=tmp_path)
    said = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "warning" in line]
    assert len(said) == 1
    assert f"wandb failed and is left out from here on (RuntimeError: {where} did not" in said[0]
    assert all(_same(a, b) for a, b in zip(_train(Source(), _sweep()), runs, strict=True))
    assert len(_local(tmp_path)) == 4 * 6


def test_sinks_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import BackendUnavailableError, ConfigError
    from lensbench.saes.training import sinks

    monkeypatch.setattr(sinks, "find_spec", lambda _name: None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'lensbench\[tensorboard\]'"):
        _train(Source(), _sweep(sinks=["tensorboard"]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="beside the log of a run; give its folder"):
        _train(Source(), _sweep(sinks=["wandb"]))
    with pytest.raises(ConfigError, match="sinks"):
        _train(Source(), _sweep(sinks=["mlflow"]), out=tmp_path / "run")


def test_wandb_offline_holds_the_local_log_and_keeps_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real client: what lies in its files is what lies in ``metrics.jsonl``."""
    pytest.importorskip("wandb")
    from lensbench.errors import StoppedError

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody is there
    sweep = _sweep(sinks=["wandb"], log_every=10)
    sweep["sweep"] = sweep["sweep"][1:]  # two dictionaries
    with pytest.raises(StoppedError):
        _train(StopAfter(23), sweep, out=tmp_path)
    assert "warning" not in (tmp_path / "log.txt").read_text()
    ids = json.loads((tmp_path / "sinks.json").read_text())["wandb"]
    first = {name: _logged(tmp_path, run_id)[0] for name, run_id in ids.items()}
    assert {name: [line["step"] for line in lines] for name, lines in first.items()} == {
        name: [10, 20] for name in ids
    }
    time.sleep(1.1)  # wandb names the folder of a run by the second it began in
    _train(Source(), sweep, out=tmp_path, resume=True)
    assert json.loads((tmp_path / "sinks.json").read_text())["wandb"] == ids
    assert "warning" not in (tmp_path / "log.txt").read_text()
    for name, run_id in ids.items():
        parts = _logged(tmp_path, run_id)
        assert len(parts) == 2
        found = [line for part in parts for line in part]
        kept = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        wanted = [json.loads(line) for line in kept]
        assert [{k: line[k] for k in wanted[0]} for line in found] == wanted


def _logged(run: Path, run_id: str) -> list[list[dict[str, float]]]:
    """History lines in the offline files of a run, oldest file first."""
    from wandb.proto import wandb_internal_pb2

    parts: list[list[dict[str, float]]] = []
    for path in sorted(run.glob(f"wandb/offline-run-*-{run_id}/*.wandb")):
        lines: list[dict[str, float]] = []
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                lines.append(
                    {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
        parts.append(lines)
    return parts


def _records(data: bytes) -> list[bytes]:
    """Records of a log in LevelDB's format: blocks of 32 KiB, chunks of (crc, length, type)."""
    assert data[:4] == b":W&B"
    at, open_, found = 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        open_ += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            found.append(open_)
            open_ = b""
    return found


def test_tensorboard_holds_the_local_log(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from lensbench.errors import StoppedError

    sweep = _sweep(sinks=["tensorboard"], log_every=10)
    with pytest.raises(StoppedError):
        _train(StopAfter(23), sweep, out=tmp_path)
    runs = _train(Source(), sweep, out=tmp_path, resume=True)
    assert "warning" not in (tmp_path / "log.txt").read_text()
    for run in runs:
        found = events.EventAccumulator(str(tmp_path / "tensorboard" / run.name)).Reload()
        for metric in ("fvu", "l0", "loss"):
            told = {e.step: e.value for e in found.Scalars(metric)}
            assert list(told) == [10, 20, 30, 40]
            assert list(told.values()) == pytest.approx(run.history[metric].tolist(), rel=1e-6)
