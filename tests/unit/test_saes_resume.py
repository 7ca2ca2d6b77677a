"""What a run comes back to: kills inside a checkpoint, ends of epochs, diverged dictionaries."""

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.test_saes_training import BATCH, D, Source, StopAfter, _same, _sweep, _train


class Killed(BaseException):
    """Like a kill: nothing catches it."""


def _kill_at_write(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process dies before the ``number``-th checkpoint of a dictionary is written."""
    from lensbench.saes.training import checkpoint

    write, count = checkpoint.write, 0

    def counted(*args: Any) -> Path:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        return write(*args)

    monkeypatch.setattr(checkpoint, "write", counted)


@pytest.mark.parametrize(("number", "from_step"), [(2, 0), (6, 10)])
def test_a_kill_inside_a_checkpoint_leaves_the_one_before(
    number: int, from_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(Source(), _sweep(keep=1))
    _kill_at_write(monkeypatch, number)  # four dictionaries: the 6th is the second one of step 20
    with pytest.raises(Killed):
        _train(Source(), _sweep(keep=1), out=tmp_path)
    monkeypatch.undo()
    resumed = _train(Source(), _sweep(keep=1), out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))
    log = (tmp_path / "log.txt").read_text()
    assert (f"resumed at step {from_step} " in log) == (from_step > 0)
    assert ("no checkpoint of all dictionaries yet: starting at step 0" in log) == (from_step == 0)


def test_checkpoints_without_a_common_step_are_refused(tmp_path: Path) -> None:
    from lensbench.errors import DataError, StoppedError

    with pytest.raises(StoppedError):
        _train(StopAfter(23), _sweep(keep=1), out=tmp_path)
    places = sorted(tmp_path.glob("*/checkpoints/step_23"))
    places[0].rename(places[0].parent / "step_11")
    with pytest.raises(DataError, match=r"no checkpoint of one step in common.*\[11\].*\[23\]"):
        _train(Source(), _sweep(keep=1), out=tmp_path, resume=True)


def test_a_checkpoint_ahead_of_the_others_does_not_outlive_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import StoppedError

    whole = _train(Source(), _sweep(keep=1))
    with monkeypatch.context() as patch:
        _kill_at_write(patch, 6)  # the first dictionary alone is at step 20
        with pytest.raises(Killed):
            _train(Source(), _sweep(keep=1), out=tmp_path)
    with pytest.raises(StoppedError, match="step 15"):
        _train(StopAfter(5), _sweep(keep=1), out=tmp_path, resume=True)
    assert {p.name for p in tmp_path.glob("*/checkpoints/*")} == {"step_15"}
    resumed = _train(Source(), _sweep(keep=1), out=tmp_path, resume=True)
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))


def test_checkpoints_that_went_missing_are_not_a_reason_to_start_over(tmp_path: Path) -> None:
    from lensbench.errors import DamagedDataError, StoppedError

    with pytest.raises(StoppedError):
        _train(StopAfter(23), _sweep(keep=1), out=tmp_path)
    rmtree(min(tmp_path.glob("*/checkpoints")))
    with pytest.raises(DamagedDataError, match=r"none.*\[23\].*Put the missing ones back"):
        _train(Source(), _sweep(keep=1), out=tmp_path, resume=True)


class Epochs:
    """Ten batches, again and again, with a position."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.at < 10:
            self.at += 1
            yield torch.randn(BATCH, D, generator=torch.Generator().manual_seed(self.at))
        self.at = 0  # so that one who comes back right after the last batch finds nothing, once

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_a_checkpoint_at_the_end_of_an_epoch_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = {
        "train": {
            "tokens": 25 * BATCH,
            "batch_size": BATCH,
            "checkpoint_every": 10,
            "engine": "dense",
        },
        "sweep": [{"architecture": "topk", "d_sae": 32, "k": 3, "lr": 3e-3}],
    }
    whole = _train(Epochs(), sweep)[0]
    _kill_at_write(monkeypatch, 2)
    with pytest.raises(Killed):
        _train(Epochs(), sweep, out=tmp_path)
    monkeypatch.undo()
    assert _same(whole, _train(Epochs(), sweep, out=tmp_path, resume=True)[0])


def test_a_failure_after_a_resume_names_the_checkpoint(tmp_path: Path) -> None:
    from lensbench.errors import NonFiniteError, StoppedError

    with pytest.raises(StoppedError):
        _train(StopAfter(12), _sweep(), out=tmp_path)
    with pytest.raises(NonFiniteError, match=r"last good checkpoint is .*step_12"):
        _train(Source(bad_at=14), _sweep(), out=tmp_path, resume=True)


def _poison_fourth(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[dict[str, np.ndarray], list[int]]:
    """The fourth loss of ``it`` is NaN: the decoder from before that, and the updates asked for."""
    from lensbench.saes.step import update

    real, kept, calls = update.apply, dict[str, np.ndarray](), list[int]()

    def poisoned(group: Any, i: int, gradients: Any, *args: Any) -> None:
        if group.configs[i].name == "it":
            calls.append(i)
            if len(calls) == 4:
                kept["W_dec"] = group.W_dec[i].clone().numpy()
                gradients.loss.fill_(torch.nan)
        real(group, i, gradients, *args)

    monkeypatch.setattr(update, "apply", poisoned)
    return kept, calls


@pytest.mark.parametrize("engine", ["dense", "screened", "stacked"])
def test_a_diverged_dictionary_keeps_the_weights_from_before(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, calls = _poison_fourth(monkeypatch)
    entry = {"architecture": "batchtopk", "d_sae": 64, "k": 3, "lr": 3e-3}
    train = {"tokens": 40 * BATCH, "batch_size": BATCH, "log_every": 20, "engine": engine}
    site = {"site": Source.sites[0]}
    sweep = {"train": train, "sweep": [entry | site | {"name": n} for n in ("it", "other")]}
    it, other = _train(Source(), sweep)
    assert len(calls) > 4  # it went on being asked until the next log line
    assert it.status == "diverged"
    assert (it.weights["W_dec"] == kept["W_dec"]).all()
    assert abs(other.weights["W_dec"] - kept["W_dec"]).max() > 1e-3  # control
    assert it.metadata["tokens_trained"] == 3 * BATCH
    monkeypatch.undo()
    sweep["sweep"] = sweep["sweep"][1:]
    assert _same(other, _train(Source(), sweep)[0])


def test_a_resumed_run_knows_what_diverged_before_it_was_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import StoppedError

    sweep = _sweep(log_every=20)
    sweep["sweep"] = [sweep["sweep"][1] | {"name": n} for n in ("it", "other")]
    with monkeypatch.context() as patch:
        _poison_fourth(patch)
        whole = _train(Source(), sweep)
    with monkeypatch.context() as patch:
        _poison_fourth(patch)
        with pytest.raises(StoppedError):  # between the gradient and the line that says it
            _train(StopAfter(12), sweep, out=tmp_path)
    resumed = _train(Source(), sweep, out=tmp_path, resume=True)
    assert [run.status for run in resumed] == ["diverged", "finished"]
    assert resumed[0].metadata["tokens_trained"] == 3 * BATCH
    assert all(_same(a, b) for a, b in zip(whole, resumed, strict=True))


def test_large_sums_for_the_log_stop_no_update() -> None:
    from lensbench.saes.configs import SweepConfig
    from lensbench.saes.step.engines import Stepper
    from lensbench.saes.step.rules.base import Now
    from lensbench.saes.step.start import new_group

    entry = {"architecture": "topk", "d_sae": 64, "k": 3, "lr": 3e-3}
    sweep = {"train": {"tokens": BATCH, "batch_size": BATCH}, "sweep": [entry]}
    x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(0))
    group = new_group(list(SweepConfig.parse(sweep).expand()), "s", x, 1.0)
    group.sums[0, :2] = 2e38  # each is finite, their sum is not
    before = group.W_enc.clone()
    Stepper(group, "dense").step(x, [3e-3], Now())
    assert not bool(group.diverged[0])
    assert float(group.state["steps"][0]) == 1
    assert not bool((group.W_enc == before).all())


def test_the_search_for_a_cut_begins_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.errors import StoppedError
    from lensbench.saes.step.rules import fixed_k

    real, begun = fixed_k.batch_top_k_codes, list[float]()

    def recorded(x: Any, w: Any, b: Any, k: int, space: Any, key: str, **options: Any) -> Any:
        begun.append(space.guesses.get(key, -1.0))
        return real(x, w, b, k, space, key, **options)

    monkeypatch.setattr(fixed_k, "batch_top_k_codes", recorded)
    sweep = _sweep(engine="screened")
    _train(Source(), sweep)
    whole = list(begun)
    begun.clear()
    with pytest.raises(StoppedError):
        _train(StopAfter(23), sweep, out=tmp_path)
    _train(Source(), sweep, out=tmp_path, resume=True)
    assert begun == whole
    assert json.loads(next(tmp_path.glob("*/checkpoints/*/state.json")).read_text())["guesses"]
