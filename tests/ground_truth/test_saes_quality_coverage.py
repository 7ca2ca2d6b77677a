"""Labels as latents score 1 and 1; an always-on latent its floor and 0; random latents about 0.

Thresholds, written before the first run: oracle exactly 1 and 1; the always-on latent exactly the
mean of 2p/(1+p) and exactly 0; random latents' reconstruction below 0.02 while their coverage is at
least half of the constant's (which is why the reconstruction is to be trusted more).
"""

import numpy as np
import pytest
from scipy import sparse

from lensbench.errors import ConfigError, MismatchError, NonFiniteError

ROWS, LABELS, D = 2400, 32, 40
DOCS = np.arange(ROWS) // 12


def world(seed: int = 0):
    from lensbench.saes import label_rows

    rng = np.random.default_rng(seed)
    values = rng.random((ROWS, LABELS)) < rng.uniform(0.05, 0.6, LABELS)
    labels = {f"square {i}": values[:, i] for i in range(LABELS)}
    x = np.where(values, 1.0, -1.0) @ rng.normal(size=(LABELS, D))
    return values, x, label_rows(labels, docs=DOCS, held=DOCS % 4 == 0)


def test_the_labels_themselves_score_one_and_one_and_the_controls_do_not() -> None:
    from lensbench.saes import coverage

    values, x, rows = world()
    found = coverage(sparse.csr_array(values.astype(float)), rows, x=x)
    assert found.coverage().mean == pytest.approx(1, abs=1e-6)
    assert found.coverage(chosen=True).mean == pytest.approx(1, abs=1e-6)
    assert found.reconstruction().mean == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(found.best, np.tile(np.arange(LABELS), (10, 1)))
    p = values[rows.held].mean(0)
    assert found.coverage("constant").mean == pytest.approx((2 * p / (1 + p)).mean(), abs=1e-6)
    assert found.reconstruction("constant").mean == 0
    assert found.reconstruction("shuffled_labels").mean < 0.02
    assert found.reconstruction("random_dictionary").mean < 0.5
    assert found.controls.values["coverage, constant"] == found.coverage("constant").mean
    assert found.coverage().n == LABELS
    assert found.reconstruction().n == ROWS // 48  # documents


def test_random_latents_cover_much_and_rebuild_nothing() -> None:
    from lensbench.saes import coverage

    rng = np.random.default_rng(3)
    noise = rng.random((ROWS, 64)) * (rng.random((ROWS, 64)) < 0.7)
    found = coverage(noise, world()[2])
    assert found.reconstruction().mean < 0.02
    assert found.coverage().mean > 0.5 * found.coverage("constant").mean
    assert found.coverage(chosen=True).mean <= found.coverage().mean


def test_the_constant_label_is_rebuilt_by_the_constant_latent() -> None:
    """A floor of 0 is not built in: a label that is nearly always true is said rightly."""
    from lensbench.saes import coverage, label_rows

    values, _, rows = world()
    base = label_rows({"a": np.ones(ROWS, bool)}, docs=DOCS, held=rows.held)
    found = coverage(values.astype(float), base)
    assert found.reconstruction("constant").mean == 1


def test_a_threshold_is_needed_where_a_latent_fires_weakly_elsewhere() -> None:
    """Each latent is 1 on its label and 0.5 elsewhere: perfect from 0.5 of the maximum on."""
    from lensbench.saes import coverage

    values, _, rows = world()
    found = coverage(np.where(values, 1.0, 0.5), rows)
    means = found.f1[0].mean(1)
    assert means[0] == pytest.approx(found.coverage("constant").mean, abs=1e-6)
    assert means[4] == means[0]
    np.testing.assert_allclose(means[5:], 1, atol=1e-6)  # "above": 0.5 is not above a half
    assert found.coverage().mean == pytest.approx(1, abs=1e-6)


def test_the_numbers_equal_those_written_out() -> None:
    from sklearn.metrics import f1_score

    from lensbench.saes import coverage, label_rows

    rng = np.random.default_rng(5)
    n, docs = 240, np.arange(240) // 4
    values = rng.random((n, 4)) < 0.4
    acts = np.maximum(values @ rng.normal(size=(4, 9)) + 0.2 * rng.normal(size=(n, 9)), 0)
    rows = label_rows({str(i): values[:, i] for i in range(4)}, docs=docs, held=docs % 2 == 0)
    found = coverage(acts, rows)
    fit, held = ~rows.held, rows.held
    for i, t in enumerate(found.fractions):
        yes = acts > t * acts[fit].max(0)
        cover = [max(f1_score(values[held, g], yes[held, j]) for j in range(9)) for g in range(4)]
        np.testing.assert_allclose(found.f1[0, i], cover, atol=1e-6)
        use = np.array(
            [
                [yes[fit, j].sum() >= 10 and values[fit & yes[:, j], g].mean() >= 0.95
                 for g in range(4)]
                for j in range(9)
            ]
        )  # fmt: skip
        said = (yes[held].astype(int) @ use.astype(int)) > 0
        assert found.n_marked[0, i] == use.sum()
        for r in range(held.sum()):
            total = said[r].sum() + values[held][r].sum()
            expected = 2 * (said[r] & values[held][r]).sum() / total if total else np.nan
            np.testing.assert_allclose(found.rows_f1[0, i, r], expected)


def test_precision_is_learned_on_the_fitting_rows_only() -> None:
    """A latent that is precise only on the scored rows is not used."""
    from lensbench.saes import coverage

    values, _, rows = world()
    rng = np.random.default_rng(2)
    noise = rng.random((ROWS, LABELS)) < 0.3
    found = coverage(np.where(rows.held[:, None], values, noise).astype(float), rows)
    assert found.coverage().mean == pytest.approx(1, abs=1e-6)
    assert found.coverage(chosen=True).mean < 0.9
    assert found.reconstruction().mean < 0.1


def test_labels_without_positives_are_left_out_and_the_result_is_saved(tmp_path) -> None:
    from lensbench.results import load
    from lensbench.saes import coverage, label_rows

    values, x, rows = world()
    labels = {name: values[:, i] for i, name in enumerate(rows.names)}
    more = label_rows(labels | {"never": np.zeros(ROWS, bool)}, docs=DOCS, held=rows.held)
    found = coverage(values.astype(float), more, neurons=x)
    assert found.coverage().n == LABELS
    assert found.coverage().mean == pytest.approx(1, abs=1e-6)
    assert np.isnan(found.coverage("random_dictionary").mean)  # x was not given
    assert np.isfinite(found.coverage("neurons").mean)
    assert load(found.save(tmp_path)) == found
    assert len(found.plot().data) == 5
    assert len(found.labels_frame()) == LABELS + 1
    assert len(found.to_frame()) == 15


def test_what_cannot_be_covered_is_named() -> None:
    from lensbench.saes import coverage, label_rows

    values, x, rows = world()
    with pytest.raises(ConfigError, match="no label has a positive"):
        coverage(values * 1.0, label_rows({"a": np.zeros(ROWS, bool)}))
    with pytest.raises(MismatchError, match="of neurons but 2400"):
        coverage(values * 1.0, rows, neurons=x[:3])
    with pytest.raises(NonFiniteError, match="in neurons"):
        coverage(values * 1.0, rows, neurons=x * np.inf)
    with pytest.raises(ConfigError, match="must be"):
        coverage(np.zeros((0, 3)), rows)
