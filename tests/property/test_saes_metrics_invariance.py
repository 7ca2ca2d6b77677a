"""Streaming reconstruction metrics do not depend on shift, scale, batch split or row order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.saes.evaluation import metrics
from lensbench.saes.evaluation.sums import Moments, ReconstructionSums


def fvu_of(x: torch.Tensor, x_hat: torch.Tensor, batch: int) -> float:
    moments = Moments(x.shape[1])
    for part in x.split(batch):
        moments.update(part)
    sums = ReconstructionSums(moments.mean, 1, 1)
    for a, b in zip(x.split(batch), x_hat.split(batch), strict=True):
        sums.update(a, b, torch.ones(len(a), 1), np.zeros(len(a), int))
    return sums.metrics()["fvu"].mean


def one_pass_float32(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """The textbook shortcut E|x|^2 - |E x|^2 in float32: what must not be done."""
    x, x_hat = x.float(), x_hat.float()
    return float((x - x_hat).pow(2).sum() / (x.pow(2).sum() - x.mean(0).pow(2).sum() * len(x)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 50),
    shift=st.sampled_from([0.0, 1.0, 1e4, -1e4]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_fvu_ignores_shift_scale_and_batches(
    seed: int, batch: int, shift: float, scale: float
) -> None:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 4, generator=gen, dtype=torch.float64)
    x_hat = x + 0.5 * torch.randn(50, 4, generator=gen, dtype=torch.float64)
    plain = float(metrics.fvu(x, x_hat))
    assert fvu_of(scale * x + shift, scale * x_hat + shift, batch) == pytest.approx(plain, rel=1e-6)


def test_the_shortcut_formula_fails_where_ours_holds() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 4, generator=gen, dtype=torch.float64)
    x_hat = x + 0.5 * torch.randn(5000, 4, generator=gen, dtype=torch.float64)
    plain = float(metrics.fvu(x, x_hat))
    assert fvu_of(x + 1e4, x_hat + 1e4, 512) == pytest.approx(plain, rel=1e-6)
    assert abs(one_pass_float32(x + 1e4, x_hat + 1e4) - plain) > 0.1 * plain


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 99))
def test_moments_merge_in_any_split(seed: int, cut: int) -> None:
    x = 1e4 + torch.randn(100, 3, generator=torch.Generator().manual_seed(seed))
    whole, parts = Moments(3), Moments(3)
    whole.update(x)
    parts.update(x[:cut])
    parts.update(x[cut:])
    exact = x.double()
    torch.testing.assert_close(parts.mean, exact.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(parts.m2, whole.m2, rtol=1e-9, atol=0)
    assert parts.total_variance == pytest.approx(float(exact.var(0, correction=0).sum()), rel=1e-9)
