"""A planted latent is read at k = 1; shuffled labels and a random dictionary are at chance.

Thresholds, written before the first run: planted accuracy and AUROC above 0.98 at k = 1; a label
that two latents share is below 0.9 at k = 1 and above 0.98 at k = 2; shuffled labels within 0.05 of
chance; a random dictionary below 0.9 where the planted one reads above 0.98.
"""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from lensbench.errors import ConfigError, MismatchError, NonFiniteError

ROWS, F, D = 3000, 60, 24


def world(seed: int = 0):
    """60 latents, each a tenth of the time; x = latents @ unit directions + a little noise."""
    from lensbench.saes import label_rows

    rng = np.random.default_rng(seed)
    acts = rng.uniform(1, 2, (ROWS, F)) * (rng.random((ROWS, F)) < 0.1)
    W_dec = rng.normal(size=(F, D))
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    x = acts @ W_dec + 0.02 * rng.normal(size=(ROWS, D))
    labels = {
        "planted": acts[:, 7] > 0,
        "shared": (acts[:, 11] > 0) | (acts[:, 23] > 0),
        "noise": rng.random(ROWS) < 0.3,
        "never": np.zeros(ROWS, bool),
    }
    docs = np.arange(ROWS) // 5
    return sparse.csr_array(acts), x, label_rows(labels, docs=docs, held=docs % 2 == 0)


@pytest.fixture(scope="module")
def probing():
    from lensbench.saes import sparse_probing

    acts, x, rows = world()
    return sparse_probing(acts, rows, x=x)


def test_a_planted_latent_is_chosen_and_read(probing) -> None:
    assert probing.chosen[0, 0] == 7
    assert probing.scores[0, 0, 0, 0] > 0.98
    assert probing.scores[0, 0, 0, 2] > 0.98
    low, high = probing.bounds[0, 0, 0]
    assert low <= probing.scores[0, 0, 0, 0] <= high
    assert probing.n_documents == ROWS // 10


def test_two_latents_need_two(probing) -> None:
    """With one of the two: 0.1 x 0.9 of the rows are missed, an accuracy of 0.91 at most."""
    shared = probing.scores[0, 1, :, 0]
    assert set(probing.chosen[1, :2].tolist()) == {11, 23}
    assert shared[0] < 0.93
    assert probing.scores[0, 1, 0, 1] < 0.8  # F1: recall is a half
    assert shared[1] > 0.98


def test_controls_fail_where_the_latents_succeed(probing) -> None:
    frame = probing.to_frame().set_index(["source", "label", "k"])
    for label in ("planted", "shared"):
        chance = frame.loc[("chance", label, 1), "accuracy"]
        assert abs(frame.loc[("shuffled_labels", label, 5), "accuracy"] - chance) < 0.05
        assert abs(frame.loc[("shuffled_labels", label, 5), "auroc"] - 0.5) < 0.1
        assert frame.loc[("random_dictionary", label, 1), "auroc"] < 0.9
        assert frame.loc[("channels", label, 1), "auroc"] < 0.9
    assert abs(frame.loc[("latents", "noise", 5), "auroc"] - 0.5) < 0.1
    assert frame.loc[("chance", "planted", 1), "auroc"] == 0.5


def test_a_label_that_never_occurs_is_nan_and_left_out_of_the_mean(probing) -> None:
    assert np.isnan(probing.scores[0, 3]).all()
    assert (probing.chosen[3] == -1).all()
    assert probing.mean("latents", 1) == pytest.approx(probing.scores[0, :3, 0, 0].mean())


def test_channels_that_are_latents_give_the_same_scores() -> None:
    """The baseline runs the same procedure: where a channel is a label, it is read just as well."""
    from lensbench.saes import sparse_probing

    acts, _, rows = world()
    same = sparse_probing(acts, rows, x=acts.toarray())
    np.testing.assert_allclose(same.scores[1], same.scores[0], atol=1e-3)


def test_the_scores_equal_those_written_out(probing) -> None:
    acts, _, rows = world()
    dense, y, fit = acts.toarray(), rows.values[:, 1], ~rows.held
    apart = np.abs(dense[fit & y].mean(0) - dense[fit & ~y].mean(0))
    top = np.argsort(-apart)[:5]
    probe = LogisticRegression(max_iter=1000).fit(dense[fit][:, top], y[fit])
    says, level = (f(dense[~fit][:, top]) for f in (probe.predict, probe.decision_function))
    expected = [np.mean(says == y[~fit]), f1_score(y[~fit], says), roc_auc_score(y[~fit], level)]
    np.testing.assert_allclose(probing.scores[0, 1, 2], expected, atol=1e-6)


def test_nothing_of_the_scored_half_is_chosen_on() -> None:
    """A latent that knows the label only in the scored half is not chosen."""
    from lensbench.saes import sparse_probing

    acts, _, rows = world()
    dense = acts.toarray()
    dense[:, 40] = np.where(rows.held, 9.0 * rows.values[:, 0], dense[:, 40])
    found = sparse_probing(dense, rows, ks=(1,))
    assert found.chosen[0, 0] == 7
    assert np.isnan(found.scores[1]).all()  # no channels were given


def test_the_result_is_saved_and_drawn(probing, tmp_path) -> None:
    from lensbench.results import load

    assert load(probing.save(tmp_path)) == probing
    assert len(probing.plot().data) == 5
    assert probing.n_unconverged == 0
    assert "shuffled_labels, k=1" in probing.controls.values


@pytest.mark.illtyped
def test_what_cannot_be_probed_is_named() -> None:
    from lensbench.saes import label_rows, sparse_probing

    acts, x, rows = world()
    with pytest.raises(ConfigError, match="from 1 to d_sae=60"):
        sparse_probing(acts, rows, ks=(1, 61))
    with pytest.raises(ConfigError, match="at least 1"):
        sparse_probing(acts, rows, ks=(0,))
    with pytest.raises(MismatchError, match="2999 rows of latents but 3000"):
        sparse_probing(acts[1:], rows)
    with pytest.raises(MismatchError, match="10 rows of activations"):
        sparse_probing(acts, rows, x=x[:10])
    with pytest.raises(NonFiniteError, match="1 of 180000 numbers in latents"):
        sparse_probing(np.where(np.arange(ROWS * F).reshape(ROWS, F) == 0, np.nan, 1.0), rows)
    with pytest.raises(ConfigError, match="one length"):
        label_rows({"a": np.ones(3, bool), "b": np.ones(4, bool)})
    with pytest.raises(ConfigError, match="one truth value per row"):
        label_rows({"a": np.array([0.5, 1.0])})
    with pytest.raises(ConfigError, match="at least one name"):
        label_rows({})
    with pytest.raises(ConfigError, match="between 0 and 1"):
        label_rows({"a": np.ones(9, bool)}, share=1.0)
    with pytest.raises(MismatchError, match="both halves"):
        label_rows({"a": np.ones(4, bool)}, docs=np.zeros(4, int), held=np.arange(4) < 2)
    dealt = label_rows({"a": np.ones(400, bool)}, docs=np.arange(400) // 4)
    assert dealt.held.sum() == 100
