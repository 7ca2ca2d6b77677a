"""Properties of selection, sparse products and the dictionary, over random shapes and values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SEEDS = st.integers(0, 2**31 - 1)


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 9), groups=st.integers(1, 80), k=st.integers(1, 16))
def test_pruned_top_k_is_top_k(seed: int, rows: int, groups: int, k: int) -> None:
    from lensbench.saes.step.selection import top_k

    x = _randn(seed, rows, 8 * groups)
    k = min(k, 8 * groups)
    values, indices = top_k(x, k)
    assert torch.equal(values.sort(1).values, torch.topk(x, k, dim=1).values.sort(1).values)
    assert torch.equal(x.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 9), columns=st.integers(1, 100))
def test_above_finds_exactly_the_entries_that_are(seed: int, rows: int, columns: int) -> None:
    from lensbench.saes.step.selection import above

    x, cut = _randn(seed, rows, columns), _randn(seed + 1, rows, 1)
    found_rows, found_columns = above(x, cut)
    assert set(zip(found_rows.tolist(), found_columns.tolist(), strict=True)) == {
        (r, c) for r, c in (x >= cut).nonzero().tolist()
    }
    assert found_rows.tolist() == sorted(found_rows.tolist())


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3), spread=st.floats(0.0, 2.0))
def test_screening_selects_what_the_exact_product_selects(
    seed: int, scale: float, spread: float
) -> None:
    """Rows of very different length are the hard case for the bound."""
    from lensbench.saes.step.encode import Workspace, top_k_codes

    x, length = _randn(seed, 16, 24) * scale, _randn(seed + 1, 1024, 1).mul(spread).exp()
    weight, bias = _randn(seed + 2, 1024, 24) * length, _randn(seed + 3, 1024) * scale
    exact, screened = (
        top_k_codes(x, weight, bias, 4, Workspace(), screened=s) for s in (False, True)
    )
    ours, theirs = (c.values.view(16, 4).sort(1).values for c in (screened, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.max()))


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, push=st.floats(-3.0, 3.0), guess=st.none() | st.floats(0.0, 30.0))
def test_batch_top_k_does_not_depend_on_the_way_or_the_guess(
    seed: int, push: float, guess: float | None
) -> None:
    """With ``push`` far below zero there are fewer positive values than places."""
    from lensbench.saes.step.encode import Workspace, batch_top_k_codes

    x, weight, bias = _randn(seed, 16, 12), _randn(seed + 1, 64, 12), _randn(seed + 2, 64) + push
    pre = torch.addmm(bias, x, weight.t()).relu().view(-1)
    values, places = torch.topk(pre, 4 * 16)
    expected = set(places[values > 0].tolist())
    for screened in (False, True):
        space = Workspace(guesses={} if guess is None else {"a": guess})
        codes = batch_top_k_codes(x, weight, bias, 4, space, "a", screened=screened)
        assert set((codes.rows.long() * 64 + codes.columns).tolist()) == expected


@pytest.mark.parametrize("screened", [False, True])
@pytest.mark.parametrize("guess", [None, torch.inf])
def test_values_that_are_not_finite_end_the_search_and_leave_no_trace(
    guess: float | None, screened: bool
) -> None:
    """A dictionary that diverges may have them; a search from infinity would never end."""
    from lensbench.saes.step.encode import Workspace, batch_top_k_codes

    x, weight, bias = _randn(0, 16, 12), _randn(1, 64, 12), _randn(2, 64)
    space = Workspace(guesses={} if guess is None else {"a": guess})
    batch_top_k_codes(x.abs() * 1e38, weight.abs() * 1e3, bias, 4, space, "a", screened=screened)
    assert math.isfinite(space.guesses["a"])
    after = batch_top_k_codes(x, weight, bias, 4, space, "a", screened=screened)
    fresh = batch_top_k_codes(x, weight, bias, 4, Workspace(), "a", screened=screened)
    assert torch.equal(after.columns, fresh.columns)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, share=st.floats(0.0, 0.3))
def test_sparse_products_are_dense_products(seed: int, share: float) -> None:
    from lensbench.saes.step import kernels
    from lensbench.saes.step.encode import positive_codes

    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(13, 40, generator=rng) * (torch.rand(13, 40, generator=rng) < share)
    weight, grad = _randn(seed + 1, 40, 7), _randn(seed + 2, 13, 7)
    codes = positive_codes(dense, dense > 0)
    plan = kernels.Transposed.of(codes)
    torch.testing.assert_close(
        kernels.decode(codes, weight, torch.empty(13, 7)), dense @ weight, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        kernels.weight_gradient(codes.values, plan, grad, torch.empty(40, 7)),
        dense.t() @ grad,
        rtol=1e-5,
        atol=1e-5,
    )
    torch.testing.assert_close(
        kernels.code_gradient(codes, grad, weight),
        (grad @ weight.t())[codes.rows.long(), codes.columns.long()],
        rtol=1e-5,
        atol=1e-5,
    )


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, k=st.integers(1, 12), factor=st.floats(0.01, 100.0))
def test_top_k_keeps_at_most_k_and_scales_with_the_input(seed: int, k: int, factor: float) -> None:
    from lensbench.saes.sae import SAE

    sae = SAE(
        W_enc=_randn(seed, 6, 24),
        b_enc=torch.zeros(24),
        W_dec=_randn(seed + 1, 24, 6),
        b_dec=torch.zeros(6),
        activation="topk",
        k=k,
    )
    x = _randn(seed + 2, 9, 6)
    acts = sae.encode(x)
    assert int((acts > 0).sum(1).max()) <= k
    torch.testing.assert_close(sae.encode(factor * x), factor * acts, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_geometric_median_resists_an_outlier_and_moves_with_the_data(seed: int) -> None:
    from lensbench.saes.step.start import geometric_median

    x, shift = _randn(seed, 101, 5), _randn(seed + 1, 5)
    centre = geometric_median(x)
    torch.testing.assert_close(geometric_median(x + shift), centre + shift, rtol=0, atol=1e-3)
    x[0] = 1e6
    assert float((geometric_median(x) - centre).norm()) < 0.5
    assert float((x.mean(0) - centre).norm()) > 1e3  # control: the mean does not
