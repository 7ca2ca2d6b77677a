"""Formulas of saes.metrics against hand-worked values, and the streamed ones against them."""

import numpy as np
import pytest
import torch

from lensbench.saes.evaluation import metrics
from lensbench.saes.evaluation.sums import (
    Moments,
    ReconstructionSums,
    bootstrap_documents,
    interval_of_ratio,
)


def streamed(x: torch.Tensor, x_hat: torch.Tensor, acts: torch.Tensor, docs, batch: int = 7):
    moments = Moments(x.shape[1])
    for start in range(0, len(x), batch):
        moments.update(x[start : start + batch])
    sums = ReconstructionSums(moments.mean, int(max(docs)) + 1, acts.shape[1])
    for start in range(0, len(x), batch):
        part = slice(start, start + batch)
        sums.update(x[part], x_hat[part], acts[part], np.asarray(docs)[part])
    return sums


@pytest.fixture
def data():
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=gen)
    x_hat = x + 0.3 * torch.randn(60, 5, generator=gen)
    acts = torch.randn(60, 9, generator=gen).relu() * (torch.arange(9) < 7)
    return x, x_hat, acts, np.repeat(np.arange(10), 6)


def test_perfect_mean_and_zero_reconstructions_score_what_the_docstring_says(data) -> None:
    x, x_hat, _, _ = data
    assert float(metrics.fvu(x, x)) == 0.0
    assert float(metrics.fvu(x, x.mean(0).expand_as(x))) == pytest.approx(1.0, abs=1e-6)
    assert 0.01 < float(metrics.fvu(x, x_hat)) < 0.5  # control: an imperfect one is neither
    assert float(metrics.explained_variance(x, x)) == 1.0
    assert float(metrics.relative_reconstruction_bias(x, 0.5 * x)) == pytest.approx(0.5)
    assert metrics.cosine(x, -2 * x).allclose(torch.tensor(-1.0, dtype=torch.float64))
    assert metrics.cosine(x, torch.zeros_like(x)).isnan().all()


def test_l0_density_and_dead_fraction_count_latents() -> None:
    acts = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 3.0, 0.0]])
    assert float(metrics.l0(acts)) == 1.5
    assert metrics.density(acts).tolist() == [0.5, 0.0, 1.0, 0.0]
    assert metrics.dead_fraction(metrics.density(acts).numpy()) == 0.5
    counts = metrics.density_histogram(np.array([0.0, 1.0, 0.5, 1e-9]))
    assert counts.sum() == 3  # the dead latent has no logarithm
    assert counts[0] == 1
    assert counts[-1] == 1


def test_ce_and_kl_recovered_have_their_end_points() -> None:
    assert metrics.ce_recovered(2.0, 2.0, 5.0, baseline="zero") == 1.0
    assert metrics.ce_recovered(2.0, 5.0, 5.0, baseline="mean") == 0.0
    assert metrics.ce_recovered(2.0, 8.0, 5.0) == -1.0
    assert np.isnan(metrics.ce_recovered(2.0, 2.0, 2.0))
    assert np.isnan(metrics.ce_recovered(5.0, 8.0, 2.0))  # else harm would score above 1
    assert metrics.kl_recovered(0.0, 3.0) == 1.0
    assert metrics.kl_recovered(3.0, 3.0) == 0.0
    assert np.isnan(metrics.kl_recovered(0.0, 0.0))


def test_streamed_metrics_equal_the_formulas_whatever_the_batches(data) -> None:
    x, x_hat, acts, docs = data
    for batch in (1, 7, 60):
        sums = streamed(x, x_hat, acts, docs, batch)
        got = sums.metrics()
        assert got["fvu"].mean == pytest.approx(float(metrics.fvu(x, x_hat)), rel=1e-12)
        assert got["l0"].mean == pytest.approx(float(metrics.l0(acts)), rel=1e-12)
        assert got["cosine"].mean == pytest.approx(
            float(metrics.cosine(x, x_hat).mean()), rel=1e-12
        )
        bias = float(metrics.relative_reconstruction_bias(x, x_hat))
        assert got["relative_reconstruction_bias"].mean == pytest.approx(bias, rel=1e-12)
        np.testing.assert_allclose(sums.density, metrics.density(acts).numpy(), rtol=1e-12)
        assert metrics.dead_fraction(sums.density) == pytest.approx(2 / 9)


def test_intervals_hold_the_value_and_count_documents_not_tokens(data) -> None:
    x, x_hat, acts, docs = data
    for name, m in streamed(x, x_hat, acts, docs).metrics().items():
        assert m.low <= m.mean <= m.high, name
        assert m.n == 10, name
    one_unit = streamed(x, x_hat, acts, np.zeros(60, int)).metrics()["fvu"]
    assert one_unit.n == 1
    assert np.isfinite(one_unit.mean)
    assert np.isnan(one_unit.low)  # one document: nothing to resample, so no interval
    assert np.isnan(one_unit.high)


def test_documents_that_hold_nothing_do_not_make_an_interval() -> None:
    """One document with all the tokens and nine without: every resample gives the same ratio."""
    alone, tokens = np.zeros(10), np.zeros(10)
    alone[3], tokens[3] = 6.0, 12.0
    found = interval_of_ratio(alone, tokens)
    assert found.mean == 0.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    tokens[4] = 12.0  # control: a second one that counts
    found = interval_of_ratio(alone, tokens)
    assert found.low < found.mean < found.high


def test_document_bootstrap_is_wider_than_a_token_bootstrap_when_documents_differ() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 50) + 0.01 * rng.normal(size=1000)
    docs = np.repeat(np.arange(20), 50)
    by_doc = interval_of_ratio(np.bincount(docs, values), np.bincount(docs).astype(float))
    by_token = interval_of_ratio(values, np.ones(1000))
    assert by_doc.high - by_doc.low > 4 * (by_token.high - by_token.low)


def test_pooling_many_documents_keeps_value_and_spread() -> None:
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(1, 1, 10_000), rng.integers(5, 15, 10_000).astype(float)
    pooled = interval_of_ratio(top, bottom)
    assert pooled.n == 10_000
    assert pooled.mean == pytest.approx(top.sum() / bottom.sum())
    draws = rng.integers(0, 10_000, (500, 10_000))
    plain = np.quantile(top[draws].sum(1) / bottom[draws].sum(1), [0.025, 0.975])
    assert (pooled.high - pooled.low) == pytest.approx(plain[1] - plain[0], rel=0.15)


def test_a_diverged_dictionary_reports_nan_and_a_silent_one_counts_undefined_tokens(data) -> None:
    x, x_hat, acts, docs = data
    broken = x_hat.clone()
    broken[3, 2] = float("nan")
    got = streamed(x, broken, acts, docs).metrics()
    assert np.isnan(got["fvu"].mean)
    assert np.isnan(got["fvu"].low)
    assert np.isnan(got["cosine"].mean)
    silent = x_hat.clone()
    silent[:5] = 0
    got = streamed(x, silent, acts, docs).metrics()
    assert got["cosine"].n_undefined == 5
    assert got["cosine"].mean == pytest.approx(float(metrics.cosine(x, silent)[5:].mean()))


def test_bootstrap_of_no_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        bootstrap_documents({"a": np.zeros(0)}, lambda s: s["a"])
