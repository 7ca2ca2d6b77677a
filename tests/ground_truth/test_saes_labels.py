"""A planted latent is found for its label; nothing is found where nothing was planted."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import f1_score as sk_f1
from sklearn.metrics import roc_auc_score

from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.evaluation.labels import (
    LabelledRows,
    auroc,
    best_latents,
    check_same_tokens,
    f1_interval,
    lookup_predictions,
)

ROWS, LATENTS = 4000, 50


def world(seed: int = 0):
    """Latent 7 fires above 1 exactly on label "planted", and weakly elsewhere."""
    rng = np.random.default_rng(seed)
    docs = np.repeat(np.arange(ROWS // 10), 10)
    label = rng.random(ROWS) < 0.1
    other = rng.random(ROWS) < 0.1
    acts = rng.random((ROWS, LATENTS)) * (rng.random((ROWS, LATENTS)) < 0.1)
    acts[:, 7] = np.where(label, 1 + rng.random(ROWS), acts[:, 7])
    rows = LabelledRows(
        names=("planted", "noise", "never"),
        kinds=("contextual",) * 3,
        values=np.stack([label, other, np.zeros(ROWS, bool)], 1),
        docs=docs,
        tokens=rng.integers(0, 20, ROWS),
        held=docs % 4 == 0,
        split="every fourth document",
    )
    return sparse.csr_array(acts.astype(np.float32)), rows


def test_planted_latent_and_its_threshold_are_found() -> None:
    acts, rows = world()
    planted, noise, never = best_latents(acts, rows)
    assert planted.latent == 7
    assert planted.threshold >= 1.0
    assert planted.f1.mean == 1.0
    assert planted.auroc > 0.99
    assert planted.f1.n == 100  # held-out documents, not tokens
    # Controls: an unplanted label stays near the always-on F1 (2p/(1+p) = 0.18) and chance AUROC.
    assert noise.f1.mean < 0.25
    assert abs(noise.auroc - 0.5) < 0.1
    assert never.latent == -1
    assert np.isnan(never.f1.mean)
    assert np.isnan(never.auroc)


def test_shuffled_labels_score_low_under_the_same_procedure() -> None:
    acts, rows = world()
    shuffled = rows.values[np.random.default_rng(1).permutation(ROWS)]
    planted, *_ = best_latents(acts, rows.replacing(shuffled))
    assert planted.f1.mean < 0.25


def test_the_search_equals_brute_force_over_every_latent_and_threshold() -> None:
    rng = np.random.default_rng(3)
    acts = np.round(rng.random((300, 12)) * (rng.random((300, 12)) < 0.4), 1)  # many ties
    label = (acts[:, 4] + 0.4 * rng.random(300)) > 0.8
    docs = np.arange(300) // 5
    rows = LabelledRows(
        ("a",), ("contextual",), label[:, None], docs, docs, docs % 2 == 0, "alternate"
    )
    (got,) = best_latents(sparse.csr_array(acts), rows)
    train = ~rows.held
    best = max(
        sk_f1(label[train], acts[train, j] >= t)
        for j in range(12)
        for t in np.unique(acts[train, j])
        if t > 0
    )
    assert got.f1_selected == pytest.approx(best, abs=1e-12)
    held = acts[rows.held, got.latent]
    assert got.f1.mean == pytest.approx(sk_f1(label[rows.held], held >= got.threshold))
    assert got.auroc == pytest.approx(roc_auc_score(label[rows.held], held))


def test_auroc_counts_ties_half_and_needs_both_classes() -> None:
    labels = np.array([True, True, False, False])
    assert auroc(np.array([2.0, 1.0, 1.0, 0.0]), labels) == 0.875
    assert auroc(np.zeros(4), labels) == 0.5
    assert np.isnan(auroc(np.ones(4), np.ones(4, bool)))


def test_always_on_scores_two_p_over_one_plus_p() -> None:
    truth = np.arange(1000) % 10 == 0
    f1 = f1_interval(np.ones(1000, bool), truth, np.arange(1000) // 10)
    assert f1.mean == pytest.approx(2 * 0.1 / 1.1)


def test_lookup_reads_lexical_labels_perfectly_and_contextual_ones_not() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 30, 6000)
    lexical, contextual = tokens < 3, rng.random(6000) < 0.1
    held = np.arange(6000) >= 3000
    values = np.stack([lexical, contextual], 1)
    says = lookup_predictions(tokens, values, held)
    docs = np.arange(3000) // 10
    assert f1_interval(says[:, 0], lexical[held], docs).mean == 1.0
    assert f1_interval(says[:, 1], contextual[held], docs).mean < 0.25


def test_halves_that_share_a_document_and_other_texts_are_refused() -> None:
    acts, rows = world()
    with pytest.raises(MismatchError, match="both halves"):
        LabelledRows(
            rows.names,
            rows.kinds,
            rows.values,
            rows.docs,
            rows.tokens,
            np.arange(ROWS) % 2 == 0,
            "by token",
        )
    with pytest.raises(ConfigError, match="empty"):
        LabelledRows(
            rows.names,
            rows.kinds,
            rows.values,
            rows.docs,
            rows.tokens,
            np.zeros(ROWS, bool),
            "none",
        )
    with pytest.raises(MismatchError, match="rows of latents"):
        best_latents(acts[:10], rows)
    with pytest.raises(MismatchError, match="1 of 3 stored token ids differ"):
        check_same_tokens(np.array([1, 2, 3]), np.array([1, 9, 3]))


def test_a_latent_that_fires_everywhere_but_strongest_on_its_label_is_found() -> None:
    rng = np.random.default_rng(4)
    label = rng.random(ROWS) < 0.1
    acts = rng.random((ROWS, LATENTS)) * (rng.random((ROWS, LATENTS)) < 0.1 + 0.2 * label[:, None])
    acts[:, 33] = rng.random(ROWS) + 1.0 * label
    docs = np.arange(ROWS) // 10
    rows = LabelledRows(
        ("a",), ("contextual",), label[:, None], docs, docs, docs % 2 == 0, "alternate"
    )
    (got,) = best_latents(sparse.csr_array(acts), rows)
    assert got.latent == 33
    assert got.f1.mean > 0.95


def test_lookup_knows_only_the_selection_half() -> None:
    tokens = np.tile(np.arange(10), 200)
    held = np.arange(2000) >= 1000
    label = (tokens == 1) | ((tokens == 5) & held)  # 5 carries the label in the scoring half only
    says = lookup_predictions(tokens, label[:, None], held)[:, 0]
    np.testing.assert_array_equal(says, tokens[held] == 1)
