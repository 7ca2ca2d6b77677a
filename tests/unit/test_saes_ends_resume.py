"""Runs of transcoders and crosscoders that were cut go on to the same weights, bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.store_builder import SITE, build

TARGET, D = "blocks.1.resid_post", 16


def _sweep() -> dict[str, Any]:
    train = {"tokens": 64 * 12, "batch_size": 64, "checkpoint_every": 4, "log_every": 3}
    over = {"d_sae": 32, "site": SITE, "target": TARGET}
    both = {"d_sae": 32, "sites": [SITE, TARGET]}
    entries = [
        {"architecture": "batchtopk", "k": 4, "skip_connection": True, **over},
        {"architecture": "jumprelu", "target_l0": 4, **over},
        {"architecture": "gated", "target_l0": 4, **over},
        {"architecture": "batchtopk", "k": 4, **both},
        {"architecture": "relu", "target_l0": 4, **both},
    ]
    return {"train": train | {"engine": "dense"}, "sweep": entries}


def test_a_cut_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench import saes
    from lensbench.errors import StoppedError
    from lensbench.saes.training import trainer

    rng = np.random.default_rng(0)
    values = {s: (rng.standard_normal((600, D)) + 0.5).astype(np.float32) for s in (SITE, TARGET)}
    store = build(tmp_path / "store", values, [600])
    options: dict[str, Any] = {"device": "cpu", "progress": False}
    whole = saes.train(store, _sweep(), **options)
    advance = trainer._Training._advance

    def cut(self: Any, batch: Any) -> None:
        if self._step == 6:
            raise StoppedError("killed")
        advance(self, batch)

    monkeypatch.setattr(trainer._Training, "_advance", cut)
    with pytest.raises(StoppedError):
        saes.train(store, _sweep(), out=tmp_path / "r", **options)
    monkeypatch.undo()
    again = saes.train(store, _sweep(), out=tmp_path / "r", resume=True, **options)
    for a, b in zip(whole, again, strict=True):
        assert a.weights.keys() == b.weights.keys()
        for name in a.weights:
            assert np.array_equal(a.weights[name], b.weights[name]), (a.name, name)
        assert np.array_equal(a.history["fvu"], b.history["fvu"])
