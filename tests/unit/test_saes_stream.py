"""Reading ahead: the same run with and without; positions of what was used; every kind of end."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import random_ids, tiny
from tests.store_builder import SITE, build, numbered
from tests.unit.test_saes_resume import Epochs, Killed, _kill_at_write
from tests.unit.test_saes_training import BATCH, D, Source, StopAfter, _same, _sweep, _train


def _threads() -> set[threading.Thread]:
    from lensbench.saes.training.ahead import NAME

    return {t for t in threading.enumerate() if t.name == NAME}


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_run_that_reads_ahead_is_the_same_run(ahead: int) -> None:
    whole = _train(Source(), _sweep())
    source = Source()
    runs = _train(source, _sweep(read_ahead=ahead))
    assert all(_same(a, b) for a, b in zip(whole, runs, strict=True))
    assert source.state_dict() == {"at": 40}  # not where the thread was
    assert not _threads()


def test_checkpoints_of_a_run_that_reads_ahead_say_what_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed inside a checkpoint, gone on with, with other numbers of batches ahead."""
    whole = _train(Source(), _sweep())
    _kill_at_write(monkeypatch, 6)
    with pytest.raises(Killed):
        _train(Source(), _sweep(read_ahead=3), out=tmp_path)
    monkeypatch.undo()
    states = sorted(tmp_path.glob("*/checkpoints/step_10/state.json"))
    assert [json.loads(p.read_text())["source"] for p in states] == [{"at": 10}] * 4
    resumed = _train(Source(), _sweep(read_ahead=1), out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not _threads()


def test_ctrl_c_under_read_ahead_ends_with_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    from lensbench.errors import StoppedError

    whole = _train(Source(), _sweep())
    with pytest.raises(StoppedError):
        _train(StopAfter(23), _sweep(read_ahead=2), out=tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "stopped"
    assert 20 <= status["step"] <= 23
    assert not _threads()
    resumed = _train(Source(), _sweep(), out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))


class Breaks(Source):
    """Fails with an error of its own after some batches."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__()
        self._left, self._error = after, error

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        for found in super().batches(batch_size):
            if self._left == 0:
                raise self._error
            self._left -= 1
            yield found


@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt(), SystemExit(3)])
def test_what_the_source_raises_comes_out_where_it_would_have(
    error: BaseException, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as caught:
        _train(Breaks(14, error), _sweep(read_ahead=2), out=tmp_path)
    assert caught.value is error
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 14  # all that came
    assert not _threads()


def test_sources_that_end_or_start_over_do_so_under_read_ahead(tmp_path: Path) -> None:
    from lensbench.errors import DataError

    sweep = {
        "train": {"tokens": 25 * BATCH, "batch_size": BATCH, "read_ahead": 2, "engine": "dense"},
        "sweep": [{"architecture": "topk", "d_sae": 32, "k": 3}],
    }
    plain = sweep | {"train": sweep["train"] | {"read_ahead": 0}}
    assert _same(_train(Epochs(), sweep)[0], _train(Epochs(), plain)[0])
    batches = [torch.randn(BATCH, D, generator=torch.Generator().manual_seed(i)) for i in range(9)]
    assert _same(_train(batches, sweep)[0], _train(batches, plain)[0])
    with pytest.raises(DataError, match="ended after 9 batches"):
        _train(iter(batches), sweep)
    store = build(tmp_path, {SITE: numbered(300, D)}, [100, 200])  # ends in the middle of a batch
    with pytest.raises(DataError, match="ended after 9 batches"):
        _train(store.source(SITE, loop=False), sweep)
    assert not _threads()


def test_the_thread_is_never_further_ahead_than_it_may() -> None:
    from lensbench.saes.training.stream import Stream

    source = Source()
    stream = Stream(source, list(source.sites), BATCH, torch.device("cpu"), ahead=3)
    for used in range(1, 6):
        stream.next()
        deadline = time.monotonic() + 10
        while source.state_dict()["at"] < used + 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)  # it would go on if it could
        assert source.state_dict()["at"] == used + 3
        assert stream.save(None, 0) == {"at": used}
    stream.close()
    assert source.state_dict() == {"at": 5}
    assert not _threads()


def test_a_store_in_memory_trains_the_same_dictionaries(tmp_path: Path) -> None:
    from lensbench.errors import BudgetError, ConfigError
    from lensbench.saes.training import resident

    rows = torch.randn(500, D, generator=torch.Generator().manual_seed(1)).numpy()
    store = build(tmp_path / "store", {SITE: rows}, [200, 300], dtype="float16")
    sweep = _sweep()
    for entry in sweep["sweep"]:
        entry["site"] = SITE
    streamed = _train(store, sweep)
    sweep["train"]["in_memory"] = True
    held = _train(store, sweep, out=tmp_path / "run")
    assert all(_same(a, b) for a, b in zip(streamed, held, strict=True))
    log = (tmp_path / "run/log.txt").read_text()
    assert "all 500 rows of the store (11.7 KiB) are held on cpu" in log
    with pytest.raises(ConfigError, match="holds the rows of a store, not of a Source"):
        _train(Source(), _sweep(in_memory=True), out=tmp_path / "none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "free_bytes", lambda _device: 30_000)
        with pytest.raises(BudgetError, match=r"500 rows take 11.7 KiB and the sweep .* 29.3 KiB"):
            _train(store, sweep, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert (resident.free_bytes(torch.device("cpu")) or 0) > 1e6


def test_waiting_is_counted_from_the_second_batch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from lensbench.saes.training import waits

    now = [0.0]
    monkeypatch.setattr(waits.time, "perf_counter", lambda: now[0])
    one = waits.Waits()
    assert one.share() == one.window(0) == 0.0
    for step, (read, work) in enumerate([(50.0, 3.0), (1.0, 3.0), (1.0, 3.0)], 1):
        with one.timed():
            now[0] += read
        now[0] += work
        if step == 2:
            assert one.window(step) == one.window(step) == pytest.approx(1 / 7)
    assert one.share() == pytest.approx(2 / 11)
    assert one.window(3) == pytest.approx(1 / 4)


def test_a_slow_source_shows_in_the_metrics_and_reading_ahead_lowers_it(tmp_path: Path) -> None:
    from lensbench.app.workflows.run_show import show_run

    class Slow(Source):
        def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
            for found in super().batches(batch_size):
                time.sleep(0.02)
                yield found

    _train(Slow(), _sweep(steps=12, log_every=4), out=tmp_path / "run")
    lines = next((tmp_path / "run").glob("*/metrics.jsonl")).read_text().splitlines()
    shares = [json.loads(line)["wait_fraction"] for line in lines]
    assert len(shares) == 3
    assert min(shares) > 0.1
    assert show_run(tmp_path / "run")["wait_fraction"] > 0.1
    assert "of the time waiting for data" in (tmp_path / "run/log.txt").read_text()
    assert _share_of_waits(Slow(), 2) < 0.5 * _share_of_waits(Slow(), 0)


def _share_of_waits(source: Source, ahead: int) -> float:
    """With steps that take longer than a batch."""
    from lensbench.saes.training.stream import Stream

    stream = Stream(source, list(source.sites), BATCH, torch.device("cpu"), ahead=ahead)
    for _ in range(10):
        stream.next()
        time.sleep(0.04)
    stream.close()
    return stream.waits.share()


def test_settings_that_change_no_number_may_change_on_resume(tmp_path: Path) -> None:
    from lensbench.errors import ConfigError, StoppedError

    with pytest.raises(StoppedError):
        _train(StopAfter(12), _sweep(), out=tmp_path)
    changed: dict[str, Any] = {"read_ahead": 2, "in_memory": False}
    assert len(_train(Source(), _sweep(**changed), out=tmp_path, resume=True)) == 4
    with pytest.raises(ConfigError, match="read_ahead"):
        _sweep_of(_sweep(read_ahead=-1))


def _sweep_of(tree: dict[str, Any]) -> Any:
    from lensbench.saes import SweepConfig

    return SweepConfig.parse(tree)


LIVE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model(tiny(seed=3), certify=False)


def _live(model: Any, **changes: Any) -> Any:
    import lensbench

    settings = {"layout": "pad", "context": 8, "batch_size": 3, "mixing": 90} | changes
    return lensbench.live_source(model, random_ids(40, 8), LIVE, **settings)


def _live_sweep(**changes: Any) -> dict[str, Any]:
    sweep = _sweep(steps=25, **changes)  # 800 rows of a text of 320
    sweep["sweep"] = [entry | {"site": LIVE} for entry in sweep["sweep"][:2]]
    return sweep


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_killed_run_on_a_mixing_buffer_ends_with_the_same_weights(
    model: Any, ahead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(_live(model), _live_sweep())
    _kill_at_write(monkeypatch, 5)  # three dictionaries: in the second checkpoint, of step 20
    with pytest.raises(Killed):
        _train(_live(model), _live_sweep(read_ahead=ahead), out=tmp_path)
    monkeypatch.undo()
    kept = sorted(p.name for p in (tmp_path / "source").iterdir())
    assert kept == ["step_10.safetensors", "step_20.safetensors"]
    seen, run = [], type(model).run
    monkeypatch.setattr(
        type(model), "run", lambda self, *a, **k: (seen.append(1), run(self, *a, **k))[1]
    )
    resumed = _train(_live(model), _live_sweep(), out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))
    again = len(seen)
    seen.clear()
    _train(_live(model), _live_sweep())
    assert again < 0.7 * len(seen)  # what the buffer held was not run again
    assert [p.name for p in (tmp_path / "source").iterdir()] == [
        "step_10.safetensors", "step_20.safetensors"
    ]  # fmt: skip
    others = _train(_live(model, mixing=91), _live_sweep())  # control
    assert not any(_same(a, b) for a, b in zip(whole, others, strict=True))


def test_what_a_buffer_held_is_checked_and_pruned(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import DamagedDataError, MissingDataError

    _kill_at_write(monkeypatch, 8)
    with pytest.raises(Killed):
        _train(_live(model), _live_sweep(keep=1, checkpoint_every=5), out=tmp_path)
    monkeypatch.undo()
    sweep = _live_sweep(keep=1, checkpoint_every=5)
    names = sorted(p.name for p in (tmp_path / "source").iterdir())
    assert names == ["step_10.safetensors", "step_15.safetensors"]  # 5 was pruned, 15 began
    held = tmp_path / "source/step_10.safetensors"
    good = held.read_bytes()
    held.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DamagedDataError, match=r"step_10\.safetensors is damaged"):
        _train(_live(model), sweep, out=tmp_path, resume=True)
    held.unlink()
    with pytest.raises(MissingDataError, match="which the checkpoint needs"):
        _train(_live(model), sweep, out=tmp_path, resume=True)
    held.write_bytes(good)
    whole = _train(_live(model), _live_sweep())
    resumed = _train(_live(model), sweep, out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))


class _Cuda:
    """What the transfer asks of ``torch.cuda``, in the order it asks; copies are done at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._current, self._made = ["default"], 0

    def Stream(self, _device: Any) -> str:
        return "side"

    def Event(self, *, enable_timing: bool) -> "_Event":
        assert enable_timing
        return _Event(self, "timer")

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        self._current.append(name)
        yield
        self._current.pop()

    @contextmanager
    def device(self, _device: Any) -> Iterator[None]:
        yield

    def current_stream(self, _device: Any = None) -> "_Cuda":
        return self

    def record_event(self, event: "_Event | None" = None) -> "_Event":
        self._made += event is None
        self.calls.append(f"record {event.name if event else self._made} on {self._current[-1]}")
        return event or _Event(self, str(self._made))

    def wait_event(self, event: "_Event") -> None:
        self.calls.append(f"wait for {event.name} on {self._current[-1]}")


class _Event:
    def __init__(self, cuda: _Cuda, name: str) -> None:
        self._cuda, self.name = cuda, name

    def synchronize(self) -> None:
        self._cuda.calls.append(f"host waits for {self.name}")


def test_a_pinned_buffer_is_written_again_only_after_its_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of what is asked of a GPU; what it does with it is in ``tests/gpu``."""
    from lensbench.saes.training import ahead

    transfer, cuda = ahead.Transfer(torch.device("cpu")), _Cuda()
    real = torch.empty_like
    monkeypatch.setattr(ahead.torch, "empty_like", lambda x, **_: real(x))
    monkeypatch.setattr(ahead.torch, "cuda", cuda)
    monkeypatch.setattr(Tensor, "record_stream", lambda *_: cuda.calls.append("keep"))
    transfer._cuda, transfer._side = True, "side"
    for i in range(3):
        batch, copies = transfer.send({"a": torch.full((2,), float(i), dtype=torch.float16)})
        assert batch["a"].dtype is torch.float32
        assert batch["a"].tolist() == [i, i]
        transfer.receive(ahead.Ready(batch, None, copies))
    used = ["record timer on default", "wait for {} on default", "keep", "record timer on default"]
    assert cuda.calls == [
        "record 1 on side", *(c.format(1) for c in used),
        "record 2 on side", *(c.format(2) for c in used),
        "host waits for 1", "record 3 on side", *(c.format(3) for c in used),
    ]  # fmt: skip
    assert [len(slot) for slot in transfer._buffers] == [1, 1]
    ahead.Ready(batch, None, copies).landed()
    assert cuda.calls[-1] == "host waits for 3"


@pytest.mark.slow
def test_the_command_line_trains_from_a_model_through_a_mixing_buffer(tmp_path: Path) -> None:
    import safetensors.numpy

    from lensbench.app.cli import main

    line = ["train", "sae", "--model", "atlas-dense", "--text", "atlas:240:all", "--sites",
            "blocks.3.resid_post", "--d-sae", "64", "--k", "4", "--tokens", "1024", "--set",
            "train.batch=128", "--set", "train.checkpoint_every=3", "--set", "source.mixing=200",
            "--out", str(tmp_path)]  # fmt: skip
    assert main(line) == 0
    held = safetensors.numpy.load_file(tmp_path / "source/step_6.safetensors")
    rows = [array for name, array in held.items() if name.startswith("held.rows.")]
    assert [array.shape[1] for array in rows] == [next(iter(rows)).shape[1]]
    assert 100 <= len(rows[0]) <= 200
    assert main([*line, "--sinks", "mlflow"]) == 2
