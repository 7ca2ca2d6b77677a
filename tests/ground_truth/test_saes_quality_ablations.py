"""Taking out planted latents hurts their own probe (TPP), and frees a biased one (SCR).

Thresholds, written before the first run. TPP with one latent per label: above 0.45 at N = 2 (0.5 is
the most); random latents within 0.05 of 0; a rotated basis, where every label is in every latent,
below 0.2. SCR with two latents for the spurious label: above 0.9 at N = 2; random within 0.1 of 0.
"""

import numpy as np
import pytest
from scipy import sparse

from lensbench.errors import ConfigError, MismatchError, UnknownNameError

ROWS, D, LABELS, F = 3000, 48, 4, 40
DOCS = np.arange(ROWS) // 3


def basis(seed: int = 5) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0]


def tpp_world():
    """40 latents on orthogonal directions; the first four are the labels."""
    from lensbench.saes import label_rows

    rng = np.random.default_rng(0)
    acts = rng.uniform(1, 2, (ROWS, F)) * (rng.random((ROWS, F)) < 0.2)
    W_dec = basis()[:F]
    x = acts @ W_dec + 0.05 * rng.normal(size=(ROWS, D)) + 1.0
    labels = {f"label {i}": acts[:, i] > 0 for i in range(LABELS)}
    return acts, x, W_dec, label_rows(labels, docs=DOCS)


def scr_world():
    """Latents 0, 1: target true, false (weak); 2, 3: spurious true, false (strong); 4..: others."""
    from lensbench.saes import label_rows

    rng = np.random.default_rng(1)
    target, spurious = rng.random(ROWS) < 0.5, rng.random(ROWS) < 0.4
    acts = rng.uniform(1, 2, (ROWS, F)) * (rng.random((ROWS, F)) < 0.2)
    acts[:, :4] = np.stack([target, ~target, 4 * spurious, 4 * ~spurious], 1)
    x = acts @ basis()[:F] + 0.05 * rng.normal(size=(ROWS, D))
    rows = label_rows({"job": target, "gender": spurious}, docs=DOCS)
    return sparse.csr_array(acts), x, basis()[:F], rows


def test_planted_latents_are_targeted_and_random_ones_are_not() -> None:
    from lensbench.saes import tpp

    acts, x, W_dec, rows = tpp_world()
    found = tpp(acts, rows, x, W_dec)
    assert (found.accuracy > 0.98).all()
    assert found.score(2).mean > 0.45
    assert abs(found.score(2, random=True).mean) < 0.05
    own = found.drop[np.arange(LABELS), 0, np.arange(LABELS)]
    assert own == pytest.approx(0.5, abs=0.03)
    assert found.controls.values["random latents, 2"] == found.score(2, random=True).mean
    assert (found.n_ablated[:, 0] == 2).all()
    assert (found.n_ablated[:, -1] < F).all()  # only those with an effect above 0


def test_a_rotated_basis_targets_nothing() -> None:
    """The same activations, latents being +- coordinates in another orthogonal basis."""
    from lensbench.saes import tpp

    _, x, _, rows = tpp_world()
    turned = basis(9)
    projected = x @ turned.T
    acts = np.concatenate([np.maximum(projected, 0), np.maximum(-projected, 0)], 1)
    found = tpp(acts, rows, x, np.concatenate([turned, -turned]))
    assert found.score(2).mean < 0.2


def test_the_drop_equals_probes_on_rebuilt_activations() -> None:
    """Written out: x' is built with the error term kept, and sklearn predicts on it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    from lensbench.saes import tpp

    acts, x, W_dec, rows = tpp_world()
    acts = np.maximum(acts + 0.3 * np.random.default_rng(3).normal(size=acts.shape), 0)  # an error
    found = tpp(acts, rows, x, W_dec, thresholds=(5,))
    fit, held, y = ~rows.held, rows.held, rows.values
    probes = [
        LogisticRegression(max_iter=1000, class_weight="balanced", solver="newton-cholesky").fit(
            x[fit], y[fit, c]
        )
        for c in range(LABELS)
    ]
    for c in range(LABELS):
        apart = acts[fit & y[:, c]].mean(0) - acts[fit & ~y[:, c]].mean(0)
        effect = np.maximum(apart, 0) * (W_dec @ probes[c].coef_[0])
        top = np.argsort(-effect)[:5]
        changed = x[held] - acts[held][:, top] @ W_dec[top]
        for d in range(LABELS):
            before, after = (
                balanced_accuracy_score(y[held, d], probes[d].predict(z))
                for z in (x[held], changed)
            )
            assert found.drop[c, 0, d] == pytest.approx(before - after, abs=1e-9)


def test_a_label_without_positives_is_nan_and_in_no_mean() -> None:
    from lensbench.saes import label_rows, tpp

    acts, x, W_dec, rows = tpp_world()
    labels = {name: rows.values[:, i] for i, name in enumerate(rows.names)}
    with_never = label_rows(labels | {"never": np.zeros(ROWS, bool)}, docs=DOCS, held=rows.held)
    found, plain = tpp(acts, with_never, x, W_dec), tpp(acts, rows, x, W_dec)
    assert np.isnan(found.accuracy[-1])
    assert found.score(5).mean == pytest.approx(plain.score(5).mean, abs=1e-12)
    assert found.score(5).n == LABELS


def test_the_spurious_latents_free_the_probe_and_random_ones_do_not() -> None:
    from lensbench.saes import scr

    acts, x, W_dec, rows = scr_world()
    found = scr(acts, rows, x, W_dec, ("job", "gender"))
    assert found.direction == 0  # the strong label is what the biased probe reads
    assert found.biased[0] < 0.6
    assert found.biased[1] > 0.95
    assert found.clean[0] > 0.95
    assert found.score(2) > 0.9
    assert abs(found.score(2, random=True)) < 0.1
    assert found.scores()[1].max() <= 0.1  # nothing to gain the other way
    swapped = scr(acts, rows, x, W_dec, ("gender", "job"))
    assert swapped.direction == 1
    assert swapped.score(2) == pytest.approx(found.score(2), abs=0.02)


def test_the_freed_accuracy_equals_probes_on_rebuilt_activations() -> None:
    """Written out on latents and rows that overlap, so that every weight and order counts.

    Both sides are at the minimum of the same loss: short of it (scikit-learn's usual tolerance) a
    row next to the boundary falls on either side.
    """
    from sklearn.linear_model import LogisticRegression

    from lensbench.saes import label_rows, scr

    rng = np.random.default_rng(6)
    t, s = rng.random(ROWS) < 0.35, rng.random(ROWS) < 0.6
    mixed = np.stack([t, ~t, s, ~s], 1) @ rng.normal(size=(4, F))
    acts = np.maximum(mixed + rng.normal(size=(ROWS, F)), 0)
    W_dec = rng.normal(size=(F, 12))
    x = 0.3 * acts @ W_dec + 4 * rng.normal(size=(ROWS, 12))
    rows = label_rows({"t": t, "s": s}, docs=DOCS)
    found = scr(acts, rows, x, W_dec, ("t", "s"), thresholds=(1, 3, 8))
    fit, held, labels = ~rows.held, rows.held, (t, s)

    def weights(half):
        cell = 2 * t[half] + s[half]
        return 1 / np.bincount(cell)[cell] / 4

    agree = fit & (t == s)
    exact = {"tol": 1e-9, "max_iter": 10_000}  # L-BFGS, where the measure takes Newton's method
    biased = LogisticRegression(**exact, class_weight="balanced").fit(x[agree], t[agree])
    for d in (0, 1):
        other, w = labels[1 - d][fit], weights(fit)
        clean = LogisticRegression(**exact).fit(x[fit], other, sample_weight=w * fit.sum())
        pos, neg = (np.average(acts[fit][y], axis=0, weights=w[y]) for y in (other, ~other))
        order = np.argsort(-np.abs((pos - neg) * (W_dec @ clean.coef_[0])))
        for i, size in enumerate((1, 3, 8)):
            changed = x[held] - acts[held][:, order[:size]] @ W_dec[order[:size]]
            right = biased.predict(changed) == labels[d][held]
            expected = np.average(right, weights=weights(held))
            assert found.ablated[d, i] == pytest.approx(expected, abs=1e-9)
            usual = np.average(acts[fit], axis=0, weights=w)[order[:size]]
            level = biased.predict(changed + usual @ W_dec[order[:size]]) == labels[d][held]
            kept = np.average(level, weights=weights(held))
            assert found.ablated_mean[d, i] == pytest.approx(kept, abs=1e-9)
    gap = (found.clean - found.biased)[:, None]
    np.testing.assert_allclose(
        found.scores(), np.where(gap < 0.001, 0, (found.ablated - found.biased[:, None]) / gap)
    )


def test_a_logit_that_moves_as_a_whole_is_told_from_bias_that_stays() -> None:
    """The spurious latent is always on, and more so for one gender; both labels are as strong.

    Written before the first run: taken out, every row falls on one side (S within 0.05 of
    ``one_sided``, which is below -0.5); held at its mean, the probe is freed (S above 0.9).
    """
    from lensbench.saes import scr

    acts, _, W_dec, rows = scr_world()
    dense, (job, gender) = acts.toarray(), rows.values.T
    dense[:, :4] = np.stack([job, ~job, 3 + 2**0.5 * gender, 0 * gender], 1)
    x = dense @ W_dec + 0.15 * np.random.default_rng(4).normal(size=(ROWS, D))
    found = scr(dense, rows, x, W_dec, ("job", "gender"), thresholds=(1,))
    d = found.labels.index("job")
    one_sided = (0.5 - found.biased[d]) / (found.clean[d] - found.biased[d])
    assert one_sided < -0.5
    assert found.scores()[d, 0] == pytest.approx(one_sided, abs=0.05)
    assert found.scores(at_mean=True)[d, 0] > 0.9
    reported = found.direction
    gap = found.clean[reported] - found.biased[reported]
    assert found.one_sided == pytest.approx((0.5 - found.biased[reported]) / gap)
    assert found.controls.values["every row answered alike"] == found.one_sided


def test_the_interval_of_scr_holds_the_score_and_is_over_documents() -> None:
    from lensbench.saes import scr

    acts, x, W_dec, rows = scr_world()
    found = scr(acts, rows, x, W_dec, ("job", "gender"), thresholds=(2, 5))
    for size in found.thresholds:
        between = found.interval(size)
        assert between.low <= between.mean <= between.high
        assert between.high - between.low < 0.1
        assert between.n == len(np.unique(rows.docs[rows.held]))


def test_where_there_is_no_gap_the_score_is_zero() -> None:
    from dataclasses import replace

    from lensbench.saes import scr

    acts, x, W_dec, rows = scr_world()
    found = scr(acts, rows, x, W_dec, ("job", "gender"), thresholds=(2,))
    level = replace(found, clean=found.biased + 0.0005)
    assert (level.scores() == 0).all()


def test_a_score_of_zero_for_want_of_a_gap_has_no_interval() -> None:
    """One label is read perfectly even by the biased probe, the other by none."""
    from lensbench.saes import label_rows, scr

    rng = np.random.default_rng(1)
    target, spurious = rng.random(ROWS) < 0.5, rng.random(ROWS) < 0.4
    acts = rng.uniform(1, 2, (ROWS, F)) * (rng.random((ROWS, F)) < 0.2)
    acts[:, 0] = 5 * target
    x = acts @ basis()[:F] + 0.05 * rng.normal(size=(ROWS, D))
    rows = label_rows({"job": target, "gender": spurious}, docs=DOCS)
    found = scr(sparse.csr_array(acts), rows, x, basis()[:F], ("job", "gender"), thresholds=(2,))
    none = found.clean - found.biased < 0.001
    assert none.any()
    assert (found.scores()[none] == 0).all()
    assert np.isnan(found.bounds[none]).all()
    assert np.isfinite(found.bounds[~none]).all()


def test_results_are_saved_and_drawn(tmp_path) -> None:
    from lensbench.results import load
    from lensbench.saes import scr, tpp

    acts, x, W_dec, rows = scr_world()
    for i, found in enumerate(
        (tpp(acts, rows, x, W_dec), scr(acts, rows, x, W_dec, ("job", "gender")))
    ):
        assert load(found.save(tmp_path / str(i))) == found
        assert len(found.plot().data) >= 2
        assert len(found.to_frame())
        assert found.controls


@pytest.mark.illtyped
def test_what_cannot_be_perturbed_is_named() -> None:
    from lensbench.saes import label_rows, scr, tpp

    acts, x, W_dec, rows = scr_world()
    with pytest.raises(ConfigError, match="1 of 1 have both classes"):
        tpp(acts, label_rows({"job": rows.values[:, 0]}), x, W_dec)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        tpp(acts, rows, x, W_dec, thresholds=(0,))
    with pytest.raises(ConfigError, match="thresholds must hold"):
        tpp(acts, rows, x, W_dec, thresholds=())
    with pytest.raises(MismatchError, match="40 latents but 39 decoder rows"):
        tpp(acts, rows, x, W_dec[1:])
    with pytest.raises(MismatchError, match=r"\[47\] wide"):
        tpp(acts, rows, x[:, 1:], W_dec)
    with pytest.raises(UnknownNameError, match="Did you mean 'gender'"):
        scr(acts, rows, x, W_dec, ("job", "gendr"))
    with pytest.raises(ConfigError, match="two different labels"):
        scr(acts, rows, x, W_dec, ("job", "job"))
    same = label_rows({"a": rows.values[:, 0], "b": rows.values[:, 0]})
    with pytest.raises(ConfigError, match="2 of the four combinations"):
        scr(acts, same, x, W_dec, ("a", "b"))
