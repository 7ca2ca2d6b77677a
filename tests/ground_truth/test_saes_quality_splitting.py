"""Planted splits are counted, what no probe reads is left out, and sharing changes no number.

World: one label is carried by one latent, one is dealt to two latents by halves, one is in no
activation at all. Thresholds, written before the first run: exactly 1 and 2 latents; the third
label is left out; F1 of all latents above 0.95, on labels of other documents below 0.8. Against
the same steps in plain numpy and scikit-learn: the same latents, and F1 to 1e-12.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from lensbench.errors import ConfigError, MismatchError

ROWS, D, OTHERS = 3000, 24, 8
DOCS = np.arange(ROWS) // 2
NAMES = ("one", "two", "nowhere")


def world() -> tuple[Any, np.ndarray, np.ndarray, Any]:
    """Latent 0 says one, 1 and 2 together say two, the others are noise; rows are orthonormal."""
    from lensbench.saes import label_rows

    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
    one, two, nowhere = (rng.random(ROWS) < p for p in (0.3, 0.4, 0.3))
    strength, half = rng.uniform(1, 2, ROWS), rng.random(ROWS) < 0.5
    others = rng.uniform(1, 2, (ROWS, OTHERS)) * (rng.random((ROWS, OTHERS)) < 0.2)
    planted = np.stack([strength * one, strength * (two & half), strength * (two & ~half)], 1)
    acts = np.concatenate([planted, others], 1)
    W_dec = basis[: acts.shape[1]]
    x = acts @ W_dec + 0.02 * rng.normal(size=(ROWS, D))
    labels = dict(zip(NAMES, (one, two, nowhere), strict=True))
    return sparse.csr_array(acts), x, W_dec, label_rows(labels, docs=DOCS, held=DOCS % 2 == 0)


def test_planted_splits_are_counted_and_what_no_probe_reads_is_left_out(tmp_path) -> None:
    from lensbench.results import load
    from lensbench.saes import feature_splitting

    acts, x, W_dec, rows = world()
    found = feature_splitting(acts, rows, x=x, dictionary=W_dec)
    assert found.n_latents[0, :2].tolist() == [1, 2]
    assert found.main[0] == (0,)
    assert set(found.main[1]) == {1, 2}
    assert np.isnan(found.n_latents[:, 2]).all()  # of the controls too
    assert np.isnan(found.f1[:, 2]).all()
    assert "below 0.6" in found.left_out[2]
    assert found.kept == ("one", "two")
    assert found.summary()["latents per label"] == 1.5
    assert found.summary()["labels scored"] == 2
    assert (found.f1[0, :2, 1] > 0.95).all()
    assert found.f1[0, 1, 0] < 0.8  # one half alone
    moved = found.sources.index("shuffled_labels")
    assert (found.f1[moved, :2, 1] < 0.8).all()
    frame = found.to_frame().set_index(["source", "label"])
    assert "below 0.6" in frame.loc[("latents", "nowhere"), "left out"]
    assert load(found.save(tmp_path)) == found
    assert found.plot().data


def test_without_the_limit_or_without_activations_every_label_is_counted() -> None:
    from lensbench.saes import feature_splitting

    acts, x, W_dec, rows = world()
    for found in (
        feature_splitting(acts, rows, x=x, dictionary=W_dec, least_f1=0),
        feature_splitting(acts, rows),
    ):
        assert np.isfinite(found.n_latents[0]).all()
        assert not any(found.left_out)


def test_the_length_of_decoder_rows_is_no_part_of_the_answer() -> None:
    from lensbench.saes import feature_splitting

    acts, x, W_dec, rows = world()
    size = np.random.default_rng(2).uniform(0.2, 5, len(W_dec))
    plain = feature_splitting(acts, rows, x=x, dictionary=W_dec)
    scaled = feature_splitting(
        sparse.csr_array(acts / size), rows, x=x, dictionary=W_dec * size[:, None]
    )
    assert scaled.main == plain.main
    np.testing.assert_array_equal(scaled.n_latents[0], plain.n_latents[0])


def plain_weights(dense: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The L1 probe, written out on a dense matrix."""
    share = np.where(y, (~y).sum() / y.sum(), 1.0) / len(y)
    wide = np.concatenate([dense, np.ones((len(y), 1))], 1)
    v = np.ones(wide.shape[1])
    for _ in range(30):
        v = wide.T @ (share * (wide @ v))
        size = np.linalg.norm(v)
        v = v / size
    step, t = 1 / (0.25 * size * 1.1), 1.0
    w = ahead = np.zeros(wide.shape[1])
    for _ in range(500):
        moved = ahead - step * wide.T @ (share * (1 / (1 + np.exp(-(wide @ ahead))) - y))
        new = np.append(
            np.sign(moved[:-1]) * np.maximum(np.abs(moved[:-1]) - step * 0.01, 0), moved[-1]
        )
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        ahead = new + (before - 1) / t * (new - w)
        done = np.abs(new - w)[:-1].max() <= 1e-6 * max(np.abs(new[:-1]).max(), 1e-12)
        w = new
        if done and w[:-1].any():
            break
    return w[:-1]


def plain_splitting(dense: np.ndarray, rows: Any, i: int) -> tuple[list[int], list[float]]:
    """Latents of a label and F1 of the first and of all, every probe fitted where it is needed."""
    fit, held = dense[~rows.held], dense[rows.held]
    y, truth = rows.values[~rows.held, i], rows.values[rows.held, i]

    def f1(chosen: list[int], read: np.ndarray, said: np.ndarray) -> float:
        probe = LogisticRegression(max_iter=500, class_weight="balanced", solver="newton-cholesky")
        says = probe.fit(fit[:, chosen], y).predict(read[:, chosen])
        return 2 * (says & said).sum() / (says.sum() + said.sum())

    weights = plain_weights(fit, y)
    order = [int(j) for j in np.argsort(-weights, kind="stable") if weights[j] > 0][:10]
    tried: list[float] = []
    for k in range(1, len(order) + 1):
        tried.append(f1(order[:k], fit, y))
        if k > 1 and tried[-1] <= max(tried[:-1]) + 0.03:
            order = order[: k - 1]
            break
    return order, [f1(order[:1], held, truth), f1(order, held, truth)]


def test_it_is_the_same_steps_in_plain_numpy_and_scikit_learn() -> None:
    from lensbench.saes import absorption, feature_splitting

    acts, x, W_dec, rows = world()
    found = feature_splitting(acts, rows, x=x, dictionary=W_dec)
    beside = absorption(acts, rows, x, W_dec)
    for i in (0, 1):
        chosen, scores = plain_splitting(acts.toarray(), rows, i)
        assert list(found.main[i]) == chosen
        assert list(beside.main[i]) == chosen
        np.testing.assert_allclose(found.f1[0, i], scores, atol=1e-12)


def test_what_dictionaries_share_changes_no_number(monkeypatch) -> None:
    """Four dictionaries, two of one shape: the same results, and each fit made once."""
    from lensbench.saes import absorption, feature_splitting, sparse_probing, tpp
    from lensbench.saes.evaluation import linear, main_latents, shared

    acts, x, W_dec, rows = world()
    order = np.random.default_rng(3).permutation(acts.shape[1])
    bare = sparse.csr_array(acts.toarray() * (np.arange(acts.shape[1]) < 3))
    pairs = [(acts, W_dec), (sparse.csr_array(acts[:, order]), W_dec[order]), (bare, W_dec),
             (sparse.csr_array(acts[:, :9]), W_dec[:9])]  # fmt: skip
    alone = [
        (absorption(a, rows, x, w), feature_splitting(a, rows, x=x, dictionary=w),
         sparse_probing(a, rows, x=x), tpp(a, rows, x, w))
        for a, w in pairs
    ]  # fmt: skip
    made = {"l1": 0, "probes": 0}
    weights_of = main_latents.l1_weights

    def counted_weights(acts: Any, y: np.ndarray) -> np.ndarray:
        made["l1"] += y.shape[1]
        return weights_of(acts, y)

    def counted_probes(x: np.ndarray, rows: Any) -> Any:
        made["probes"] += 1
        return linear.linear_probes(x, rows)

    monkeypatch.setattr(main_latents, "l1_weights", counted_weights)
    monkeypatch.setattr(shared, "linear_probes", counted_probes)
    known = shared.Shared(x, rows)
    together = []
    for a, w in pairs:
        own = main_latents.LabelLatents(a, rows, w)
        together.append((
            absorption(a, rows, x, w, shared=known, main=own),
            feature_splitting(a, rows, dictionary=w, shared=known, main=own),
            sparse_probing(a, rows, shared=known),
            tpp(a, rows, x, w, probes=known.probes),
        ))  # fmt: skip
    for mine, theirs in zip(together, alone, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.controls == other.controls
            pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), check_exact=True)
    # Own latents and shuffled labels of each dictionary; a random dictionary for each shape.
    assert made == {"l1": 4 * (2 + 2) + 3 * 2, "probes": 2}


def test_labels_side_by_side_have_the_weights_of_each_alone() -> None:
    """To the last bit, where one settles before the others too."""
    from lensbench.saes.evaluation.main_latents import l1_weights

    acts, _, _, rows = world()
    fit, y = sparse.csr_array(acts[~rows.held]), rows.values[~rows.held]
    together = l1_weights(fit, y)
    for i in range(y.shape[1]):
        np.testing.assert_array_equal(together[:, [i]], l1_weights(fit, y[:, [i]]))
        np.testing.assert_allclose(together[:, i], plain_weights(fit.toarray(), y[:, i]), atol=1e-9)


def test_parts_of_other_rows_are_refused() -> None:
    from lensbench.saes import absorption, feature_splitting
    from lensbench.saes.evaluation.main_latents import LabelLatents
    from lensbench.saes.evaluation.shared import Shared

    acts, x, W_dec, rows = world()
    again = rows.replacing(rows.values.copy())
    with pytest.raises(MismatchError, match="other rows or another seed"):
        feature_splitting(acts, again, shared=Shared(x, rows))
    with pytest.raises(MismatchError, match="other rows or another seed"):
        absorption(acts, rows, x, W_dec, shared=Shared(x, rows, seed=1))
    with pytest.raises(MismatchError, match="max_k=3"):
        absorption(acts, rows, x, W_dec, max_k=3, main=LabelLatents(acts, rows, W_dec))
    with pytest.raises(MismatchError, match="decoder rows"):
        feature_splitting(acts, rows, dictionary=W_dec[1:])
    with pytest.raises(ConfigError, match="least_f1 must lie between 0 and 1, got 60"):
        feature_splitting(acts, rows, x=x, least_f1=60)
