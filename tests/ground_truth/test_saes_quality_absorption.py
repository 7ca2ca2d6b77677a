"""Planted absorption is 1 on the rows that were absorbed and 0 elsewhere, and 0 without it.

World: a parent direction on 30 % of the rows; each of 20 children occurs only with the parent, on
2 % of its rows. Absorbed: the parent's latent is silent where a child is, whose latent points to
both. Not absorbed: the parent's latent always fires and a child's points to the child alone.
Thresholds, written before the first run: exactly 1 (fraction and full) on child rows of the
absorbed dictionary for at least 95 % of them, exactly 0 on its other rows, exactly 0 everywhere
without absorption.
"""

import numpy as np
import pytest
from scipy import sparse

from lensbench.errors import ConfigError, MismatchError

ROWS, D, CHILDREN, OTHERS = 6000, 64, 20, 12
DOCS = np.arange(ROWS) // 2


def world(*, absorbed: bool, share: float = 0.0):
    """Latent 0: the parent; 1..20: children; then others. ``share``: what the parent keeps."""
    from lensbench.saes import label_rows

    rng = np.random.default_rng(0)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    parent = rng.random(ROWS) < 0.3
    which = np.where(parent & (rng.random(ROWS) < 0.4), rng.integers(0, CHILDREN, ROWS), -1)
    child = which[:, None] == np.arange(CHILDREN)
    strength = rng.uniform(1, 2, ROWS)
    others = rng.uniform(1, 2, (ROWS, OTHERS)) * (rng.random((ROWS, OTHERS)) < 0.2)
    e_parent, e_child = basis[0], basis[1 : 1 + CHILDREN]
    e_others = basis[1 + CHILDREN : 1 + CHILDREN + OTHERS]
    x = strength[:, None] * (parent[:, None] * e_parent + child @ e_child) + others @ e_others
    x += 0.02 * rng.normal(size=x.shape)
    main = strength * parent
    if absorbed:
        main = np.where(child.any(1), share * main, main)
        decoder = e_child + (1 - share) * e_parent
    else:
        decoder = e_child
    acts = np.concatenate([main[:, None], strength[:, None] * child, others], 1)
    W_dec = np.concatenate([e_parent[None], decoder, e_others])
    labels = {"parent": parent, "other": others[:, 0] > 0}
    rows = label_rows(labels, docs=DOCS, held=DOCS % 2 == 0)
    return sparse.csr_array(acts), x, W_dec, rows, child.any(1)


def scored(found, label: str, rows_with):
    here = found.label == found.labels.index(label)
    return here & rows_with[found.row], here & ~rows_with[found.row]


def test_planted_absorption_is_one_where_it_is_and_zero_elsewhere() -> None:
    from lensbench.saes import absorption

    acts, x, W_dec, rows, child = world(absorbed=True)
    found = absorption(acts, rows, x, W_dec)
    assert found.main == ((0,), (CHILDREN + 1,))
    there, elsewhere = scored(found, "parent", child)
    assert there.sum() > 200
    assert (found.fraction[there] == 1).mean() >= 0.95
    assert found.full[there].mean() >= 0.95
    assert (found.fraction[elsewhere] == 0).all()
    assert not found.full[elsewhere].any()
    assert found.fraction_of("other").mean == 0
    assert found.full_of("parent").mean == pytest.approx(there.sum() / (found.label == 0).sum())
    assert set(found.top_latent[there].tolist()) <= set(range(1, CHILDREN + 1))
    assert found.controls.values["shuffled labels, probes that pass"] == 0


def test_the_same_world_without_absorption_is_zero() -> None:
    from lensbench.saes import absorption

    acts, x, W_dec, rows, _ = world(absorbed=False)
    found = absorption(acts, rows, x, W_dec)
    assert found.main[0] == (0,)
    assert (found.label == 0).sum() > 500
    assert (found.fraction == 0).all()
    assert not found.full.any()


def test_half_absorbed_is_a_half_and_never_full() -> None:
    from lensbench.saes import absorption

    acts, x, W_dec, rows, child = world(absorbed=True, share=0.5)
    found = absorption(acts, rows, x, W_dec)
    there, elsewhere = scored(found, "parent", child)
    assert found.fraction[there].mean() == pytest.approx(0.5, abs=0.15)
    assert not found.full.any()
    assert (found.fraction[elsewhere] == 0).all()


def test_decoder_norms_are_folded_in_first() -> None:
    """Rows of another length and latents of the inverse strength are the same dictionary."""
    from lensbench.saes import absorption

    acts, x, W_dec, rows, _ = world(absorbed=True)
    size = np.random.default_rng(2).uniform(0.2, 5, len(W_dec))
    plain = absorption(acts, rows, x, W_dec)
    scaled = absorption(sparse.csr_array(acts / size), rows, x, W_dec * size[:, None])
    assert scaled.main == plain.main
    np.testing.assert_allclose(scaled.fraction, plain.fraction, atol=1e-9)
    np.testing.assert_array_equal(scaled.full, plain.full)


def test_a_split_label_has_two_main_latents_and_is_not_absorbed() -> None:
    from lensbench.saes import absorption

    acts, x, W_dec, rows, _ = world(absorbed=False)
    half = np.arange(ROWS) % 3 == 0
    dense = acts.toarray()
    second = np.where(half, dense[:, 0], 0)
    dense[:, 0] = np.where(half, 0, dense[:, 0])
    dense = np.concatenate([dense, second[:, None]], 1)
    found = absorption(dense, rows, x, np.concatenate([W_dec, W_dec[:1]]))
    assert set(found.main[0]) == {0, dense.shape[1] - 1}
    assert found.fraction_of("parent").mean == 0
    assert found.summary()["latents per label"] == 1.5


def test_the_fraction_is_the_formula() -> None:
    from lensbench.saes.evaluation.absorption import absorbed_fraction

    assert absorbed_fraction(1.0, 5.0, 1.0) == 0  # the main latents carry it all
    assert absorbed_fraction(0.5, 0.39, 1.0) == 0  # absorbers below 0.4 of the total
    assert absorbed_fraction(0.0, 0.4, 1.0) == 1
    assert absorbed_fraction(-0.1, 0.9, 1.0) == 1
    assert absorbed_fraction(0.25, 0.5, 1.0) == pytest.approx(0.5 / 0.75)
    assert absorbed_fraction(0.25, 9.0, 1.0) == pytest.approx(0.75)  # a is at most total - main


def test_the_sparse_probe_reaches_its_minimum() -> None:
    """Optimality: |gradient| <= lambda off the support, = -lambda sign(w) on it."""
    from lensbench.saes.evaluation.main_latents import L1, l1_weights

    acts, _, _, rows, _ = world(absorbed=True)
    dense, y = acts.toarray(), rows.values[:, 0]
    w = l1_weights(acts, y[:, None])[:, 0]
    from scipy.optimize import minimize_scalar

    share = np.where(y, (~y).sum() / y.sum(), 1.0) / ROWS

    def loss(b: float) -> float:
        z = dense @ w + b
        return float((share * (np.logaddexp(0, z) - y * z)).sum())

    b = float(minimize_scalar(loss, bracket=(-5, 0, 5)).x)
    gradient = dense.T @ (share * (1 / (1 + np.exp(-(dense @ w + b))) - y))
    assert (w != 0).any()
    assert (w == 0).any()
    np.testing.assert_allclose(gradient[w != 0], -L1 * np.sign(w[w != 0]), atol=3e-4)
    assert (np.abs(gradient[w == 0]) <= L1 + 3e-4).all()


def test_labels_that_no_probe_reads_or_that_are_rare_are_left_out_with_the_reason(tmp_path) -> None:
    from lensbench.results import load
    from lensbench.saes import absorption, label_rows

    acts, x, W_dec, rows, _ = world(absorbed=True)
    noise = np.random.default_rng(7).random(ROWS) < 0.2
    labels = {"parent": rows.values[:, 0], "noise": noise, "never": np.zeros(ROWS, bool)}
    more = label_rows(labels, docs=DOCS, held=rows.held)
    found = absorption(acts, more, x, W_dec)
    assert found.left_out[0] == ""
    assert "below 0.6" in found.left_out[1]
    assert "nan" in found.left_out[2]
    assert np.isnan(found.fraction_of("noise").mean)
    assert found.summary()["labels scored"] == 1
    assert load(found.save(tmp_path)) == found
    assert len(found.plot().data)
    assert len(found.rows_frame()) == len(found.row)
    none = absorption(acts, more, x, W_dec, least_rows=10_000)
    assert "fewer than 10000" in none.left_out[0]
    assert np.isnan(none.summary()["absorbed fraction"])
    with pytest.raises(MismatchError, match="decoder rows"):
        absorption(acts, more, x, W_dec[1:])
    with pytest.raises(ConfigError, match="max_k must be a whole number"):
        absorption(acts, more, x, W_dec, max_k=0)
    with pytest.raises(ConfigError, match="least_f1 must lie between 0 and 1, got 60"):
        absorption(acts, more, x, W_dec, least_f1=60)
