"""Latents that separate two classes: planted ones are found, chance is not, the null is right."""

import numpy as np
import pytest
from scipy.stats import binom

from lensbench import results
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError
from lensbench.interventions import separation
from lensbench.interventions.selection.rates import null_maxima, p_values

RATE = 0.14
"""The source of the magnitudes below names no firing rate; at this one the spread of a single
difference fits its four rows (sqrt(2 r (1 - r) / N), maximum near four spreads)."""


def random_latents(n, d, seed=0, rate=RATE):
    return np.random.default_rng(seed).random((n, d)) < rate


def types(n_side, n_groups):
    """Labels and groups: ``n_side`` prompts of each class in each group."""
    first = np.tile(np.arange(2 * n_side) < n_side, n_groups)
    return first, np.repeat(np.arange(n_groups), 2 * n_side)


def expected_maximum(n, latents, groups, rate=RATE):
    """E of the greatest MaxMin score of independent latents, from binomials alone."""
    pmf = binom.pmf(np.arange(n + 1), n, rate)
    tail = np.convolve(pmf, pmf[::-1])[::-1].cumsum()[::-1]  # P(D >= k), k = -n..n
    below = (1 - np.clip(tail, 0, 1) ** groups) ** latents  # P(max < k)
    mass = np.diff(np.append(below, 1.0))
    return float((mass * np.arange(-n, n + 1)).sum() / n)


@pytest.mark.parametrize(
    ("n", "groups", "known"), [(50, 1, 0.28), (50, 4, 0.10), (200, 1, 0.14), (200, 4, 0.05)]
)
def test_the_null_of_the_maximum_has_the_published_size_and_that_of_binomials(n, groups, known):
    d = 16_384
    first, group = types(n, groups)
    fires = random_latents(len(first), d, seed=1)
    null = null_maxima(fires, first, group, np.arange(len(first)), 20, seed=0)
    expected = expected_maximum(n, d, groups)
    assert null[:, 0].mean() == pytest.approx(expected, rel=0.05)
    assert null[:, 1].mean() == pytest.approx(expected, rel=0.05)
    assert expected == pytest.approx(known, rel=0.12)


def planted(seed=0, n_side=60, n_groups=3, d=2000):
    first, group = types(n_side, n_groups)
    rng = np.random.default_rng(seed)
    acts = random_latents(len(first), d, seed).astype(float)
    acts[:, 7] = rng.random(len(first)) < np.where(first, 0.75, 0.1)
    acts[:, 11] = rng.random(len(first)) < np.where(first, 0.1, 0.7)
    only = first & (group == 0)  # separates in one group alone
    acts[:, 13] = rng.random(len(first)) < np.where(only, 0.95, 0.05)
    return acts, first, group


def test_planted_latents_of_both_classes_come_first_and_are_beyond_chance():
    acts, first, group = planted()
    found = separation(acts, first, group)
    assert found.top(1) == (7,)
    assert found.top(1, "unknown") == (11,)
    assert found.significant("known") == (7,)
    assert found.significant("unknown") == (11,)
    assert found.p[0, 7] == pytest.approx(1 / 201)
    assert found.score[0, 7] > 2 * found.line
    assert found.n.tolist() == [[60] * 3] * 2
    assert 13 not in found.top(5)  # control: a minimum over groups wants all of them
    assert separation(acts[group == 0], first[group == 0]).top(1) == (13,)


def test_under_shuffled_labels_no_latent_is_significant():
    acts, first, group = planted()
    hits = 0
    for seed in range(5):
        rng, moved = np.random.default_rng(seed), first.copy()
        for g in range(3):
            moved[group == g] = rng.permutation(first[group == g])
        found = separation(acts, moved, group, seed=seed)
        hits += len(found.significant("known")) + len(found.significant("unknown"))
    assert hits == 0


def test_prompts_of_one_entity_move_together_or_chance_would_pass():
    """25 entities a side, each said four times: latents follow entities, not classes."""
    first = np.tile(np.arange(50) < 25, 4)
    entity, wording = np.tile(np.arange(50), 4), np.repeat(np.arange(4), 50)
    fires = np.tile(random_latents(50, 2000, seed=3, rate=0.3), (4, 1))
    found = separation(fires, first, wording, entities=entity)
    assert not found.significant("known")
    assert not found.significant("unknown")
    assert found.n_entities.tolist() == [25, 25]
    alone = separation(fires, first, wording)  # control: every prompt as if it were its own entity
    assert len(alone.significant("known")) > 10


def test_latents_that_fire_on_ordinary_text_are_dropped_and_said_to_be():
    acts, first, group = planted()
    rng = np.random.default_rng(9)
    background = np.zeros((1000, acts.shape[1]))
    background[:, 11] = rng.random(1000) < 0.3
    background[:19, 7] = 1.0  # below two in a hundred
    found = separation(acts, first, group, background=background)
    assert not found.kept[11]
    assert np.isnan(found.score[:, 11]).all()
    assert 11 not in found.top(50, "unknown")
    assert found.top(1) == (7,)
    assert found.background[7] == pytest.approx(0.019)
    background[19, 7] = 1.0
    assert not separation(acts, first, group, background=background).kept[7]


def test_neutral_latents_fire_and_separate_nothing():
    acts, first, group = planted()
    acts[:, 100:] = 0
    found = separation(acts, first, group)
    chosen = found.neutral(10, within=0.15)
    assert not {7, 11, 13} & set(chosen)
    assert max(chosen) < 100
    assert len(set(chosen)) == 10
    with pytest.raises(NotEnoughDataError, match="raise within"):
        found.neutral(10, within=0.0)


def test_a_separation_saves_frames_and_draws_its_null_line(tmp_path):
    acts, first, group = planted(d=50)
    found = separation(acts, first, [f"type {g}" for g in group])
    assert results.load(found.save(tmp_path / "r")) == found
    frame = found.to_frame()
    assert len(frame) == 3 * 50
    row = frame[(frame.latent == 7) & (frame.group == "type 1")].iloc[0]
    assert row.separation == pytest.approx(row.f_known - row.f_unknown)
    assert row.n_known == 60
    lines = [shape.y0 for shape in found.plot().layout.shapes]
    assert lines == [found.line, -found.line]
    assert found.controls.values["moved_labels_95"] == found.line
    assert found.summary()["known_latent"] == 7


@pytest.mark.illtyped
def test_what_cannot_be_compared_is_refused():
    acts, first, group = planted(d=20)
    with pytest.raises(NonFiniteError, match="1 of"):
        separation(np.where(np.arange(acts.size).reshape(acts.shape) == 3, np.nan, acts), first)
    with pytest.raises(ConfigError, match="one entry per prompt"):
        separation(acts, first, group[:-1])
    with pytest.raises(ConfigError, match="True or False"):
        separation(acts, first[:-1])
    with pytest.raises(ConfigError, match="of both classes"):
        separation(acts, first, entities=np.zeros(len(first)))
    with pytest.raises(NotEnoughDataError, match="'2' has no prompt of class 'unknown'"):
        separation(acts[:-60], first[:-60], group[:-60])
    with pytest.raises(NotEnoughDataError, match="raise most"):
        separation(acts, first, background=np.ones((5, 20)))


def test_a_score_that_float32_rounds_above_the_null_is_a_tie():
    score = np.array([[1 / 3], [0.5]])
    null = np.full((9, 2), np.float32(1 / 3) - 3e-8)
    assert p_values(score, null)[:, 0].tolist() == [1.0, 0.1]
