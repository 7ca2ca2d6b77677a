"""What cannot fit is refused before anything is written; what is forecast is what is allocated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.store_builder import SITE, build


@pytest.fixture
def store(tmp_path: Path) -> Any:
    values = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    return build(tmp_path / "store", {SITE: values}, [600])


def _sweep(**entry: Any) -> dict[str, Any]:
    train = {"tokens": 512, "batch_size": 64}
    return {"train": train, "sweep": [{"architecture": "topk", "d_sae": 64, "k": 4} | entry]}


def test_a_sweep_beyond_the_memory_is_refused_and_nothing_is_written(
    store: Any, tmp_path: Path
) -> None:
    from lensbench import saes
    from lensbench.errors import BudgetError

    huge = _sweep(d_sae=10**11)
    with pytest.raises(BudgetError, match=r"need .* GiB of memory.*free; train fewer"):
        saes.train(store, huge, out=tmp_path / "r", device="cpu", progress=False)
    assert not (tmp_path / "r").exists()


def test_a_sweep_beyond_the_disk_is_refused(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import BudgetError
    from lensbench.saes.training import room

    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})())
    with pytest.raises(BudgetError, match=r"write up to .* left; keep fewer checkpoints"):
        saes.train(store, _sweep(), out=tmp_path / "r", device="cpu", progress=False)
    assert not (tmp_path / "r").exists()
    saes.train(store, _sweep(), device="cpu", progress=False)  # control: nothing to write


def test_a_crosscoder_of_unequal_sites_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    rng = np.random.default_rng(0)
    values = {SITE: rng.standard_normal((600, 16)), "blocks.1.resid_post": np.ones((600, 8))}
    wide = {site: v.astype(np.float32) for site, v in values.items()}
    store = build(tmp_path / "two", wide, [600])
    with pytest.raises(MismatchError, match="differ in width"):
        saes.train(store, _sweep(sites=list(wide)), out=tmp_path / "r", device="cpu")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("ends", [{}, {"target": "b"}, {"target": "b", "skip_connection": True}])
def test_parameters_and_operations_are_those_of_the_group(ends: dict[str, Any]) -> None:
    from lensbench.saes.configs import SweepConfig
    from lensbench.saes.ends import Ends
    from lensbench.saes.training.forecast import plan_memory
    from lensbench.saes.training.groups import started

    sweep = SweepConfig.parse(_sweep(site="a", **ends))
    config = sweep.expand()[0]
    batch = {"a": torch.randn(64, 16), "b": torch.randn(64, 10)}
    group = started([config], Ends.of(config), batch, {"a": 1.0, "b": 1.0})
    plan = plan_memory(sweep, {"a": 16, "b": 10})
    assert plan.parameters == sum(p.numel() for p in group.params.values())
    d_out = 10 if ends else 16
    skip = 4 * 16 * 10 if "skip_connection" in ends else 0
    assert plan.flops_per_token == 2 * 64 * 16 + 4 * (6 * d_out + 2 * 16) + skip


def test_a_run_that_goes_on_does_not_need_its_own_room_again(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import BudgetError
    from lensbench.saes.configs import SweepConfig
    from lensbench.saes.training import room

    needs = saes.plan_memory(SweepConfig.parse(_sweep()), 16).disk_bytes
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("U", (), {"free": needs // 2})())
    out = tmp_path / "r"
    (out / "a").mkdir(parents=True)
    with pytest.raises(BudgetError, match="write up to"):
        saes.train(store, _sweep(), out=out, device="cpu", progress=False)
    (out / "a" / "state.safetensors").write_bytes(bytes(needs))
    assert saes.train(store, _sweep(), out=out, device="cpu", progress=False)


def test_a_full_disk_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.numpy

    from lensbench import io
    from lensbench.errors import DataError

    def full(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(DataError, match=r"x\.safetensors: No space left on device"):
        io.write_arrays(tmp_path / "x.safetensors", {"a": np.zeros(3)})
    assert not list(tmp_path.iterdir())
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device"):
        io.append_text(tmp_path / "log.txt", "more")
