"""Implanted directions come back as they get stronger, and never without an implant."""

import numpy as np
import pytest
import torch

from lensbench import results
from lensbench.errors import ConfigError
from lensbench.saes.evaluation.implants import fit_with, implant_recovery

D, N = 24, 6


class Rows:
    """A dictionary that is only its decoder."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.W_dec = rows


def outliers(acts: torch.Tensor) -> Rows:
    """Decoder rows: the 40 longest rows after centring. No training: finds what stands out."""
    x = acts - acts.mean(0)
    return Rows(x[x.norm(dim=-1).topk(80).indices])


def noise(n: int = 4000, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def test_recovery_is_zero_without_implant_and_rises_with_strength() -> None:
    curve = implant_recovery(outliers, noise(), n=N, strengths=(0.0, 0.5, 1.0, 4.0), fraction=0.002)
    share = curve.share[:, 0]
    assert share[0] == 0.0
    assert share[-1] == 1.0
    assert (np.diff(share) >= 0).all()
    assert curve.controls.values == {"without implant": 0.0}
    assert (curve.share[:, 1] <= share).all()
    assert (share <= curve.share[:, 2]).all()
    assert curve.best_cosine.shape == (4, N)
    assert curve.best_cosine[0].max() < 0.9


def test_a_fit_that_ignores_the_data_recovers_nothing() -> None:
    blind = Rows(noise(40, seed=9))
    assert (implant_recovery(lambda _: blind, noise(), n=N).share[:, 0] == 0).all()


def test_the_curve_has_a_frame_a_picture_and_comes_back_equal(tmp_path) -> None:
    curve = implant_recovery(outliers, noise(), n=N, strengths=(0.0, 4.0), fraction=0.002)
    assert results.load(curve.save(tmp_path / "c")) == curve
    assert curve.to_frame()["n"].tolist() == [N, N]
    assert curve.summary() == {"recovered at 0": 0.0, "recovered at 4": 1.0}
    assert curve.plot().data


def test_a_curve_without_its_control_is_refused() -> None:
    with pytest.raises(ConfigError, match="must hold 0"):
        implant_recovery(outliers, noise(), strengths=(1.0, 2.0))


def test_a_trained_dictionary_finds_strong_implants_and_none_at_zero() -> None:
    from lensbench.saes import TopKConfig

    fit = fit_with(TopKConfig(d_sae=32, k=1, lr=1e-2), tokens=50_000, batch_size=500)
    curve = implant_recovery(fit, noise(), n=N, strengths=(0.0, 0.1, 2.0), fraction=0.02)
    assert curve.share[0, 0] == 0.0
    assert curve.share[2, 0] >= 0.8
    assert curve.share[1, 0] < curve.share[2, 0]
    assert curve.best_cosine[0].max() < curve.best_cosine[2].min()


def test_fewer_rows_than_a_batch_are_refused() -> None:
    """They would never fill a batch: training would wait for ever."""
    from lensbench.saes import TopKConfig

    fit = fit_with(TopKConfig(d_sae=32, k=1), tokens=2048, batch_size=512)
    with pytest.raises(ConfigError, match=r"300 rows.*batch of 512"):
        implant_recovery(fit, noise(300), n=2, strengths=(0.0,))
    fit = fit_with(TopKConfig(d_sae=32, k=1), tokens=600, batch_size=300)
    assert fit(noise(300)).W_dec.shape == (32, D)  # one whole batch is enough


def test_one_direction_has_no_interval(tmp_path) -> None:
    curve = implant_recovery(outliers, noise(), n=1, strengths=(0.0, 4.0), fraction=0.002)
    assert np.isfinite(curve.share[:, 0]).all()
    assert np.isnan(curve.share[:, 1:]).all()
    assert results.load(curve.save(tmp_path / "c")) == curve
    assert curve.plot().to_json()


def test_implants_are_not_the_rows_that_training_of_the_same_seed_begins_with() -> None:
    """Equal seeds draw equal numbers; an untrained dictionary must still recover nothing."""
    start = Rows(torch.randn(N, D, generator=torch.Generator().manual_seed(0)))
    curve = implant_recovery(lambda _: start, noise(), n=N, strengths=(0.0,), seed=0)
    assert curve.share[0, 0] == 0.0
