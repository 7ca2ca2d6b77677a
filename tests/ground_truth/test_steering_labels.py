"""Directions of labelled states carry their shuffled-label control; others say that there is none.

Limits and seeds were fixed before the first run (the planted probe has 200 rows since: of 60 rows
in 24 dimensions least squares came to a cosine of .79 with the planted axis, where .8 was asked).
"""

import numpy as np
import pytest

import lensbench
from lensbench import prompts
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.interventions import (
    Contrast,
    Direction,
    activation_addition,
    contrast_states,
    dose_curve,
    in_context_vector,
    latent_direction,
    probe_direction,
    towards,
)
from tests.splice_helpers import random_sae

SITE = "blocks.1.resid_post"
NONE = "no labels: shuffled-label control not defined"


@pytest.fixture(scope="module")
def atlas():
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def pairs(atlas):
    return towards(prompts.agreement(atlas, n=10), ["are", "were", "seem"])


@pytest.fixture(scope="module")
def contrast(atlas, pairs):
    return contrast_states(atlas, pairs, SITE, position="subject")


def planted(n=200, d=24, gap=6.0, seed=0):
    """Two classes of states that differ along the first axis, in noise."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), np.arange(n) % 2
    x[:, 0] += gap * y
    return x, y


def fitted(x, y):
    """A least-squares probe."""
    centred = x - x.mean(0)
    return np.linalg.lstsq(centred, y - y.mean(), rcond=None)[0]


def a_probe():
    x, y = planted()
    refit = lambda seed: fitted(x, np.random.default_rng(seed).permutation(y))  # noqa: E731
    return probe_direction(SITE, fitted(x, y), refit=refit)


def of_every_kind(atlas, contrast):
    rows = np.random.default_rng(0).integers(5, 80, (8, 4)).tolist()
    return {
        "mean_difference": contrast.mean_difference(),
        "pca_center": contrast.pca(),
        "in_context_vector": in_context_vector(atlas, [[9, 8], [7, 6]], rows, SITE),
        "probe": a_probe(),
    }


def test_every_fitted_direction_is_redrawn_at_equal_length_in_number_and_by_seed(atlas, contrast):
    for method, direction in of_every_kind(atlas, contrast).items():
        assert direction.config["method"] == method
        drawn = direction.shuffled(20, seed=1)
        assert len(drawn) == 20
        assert {d.site for d in drawn} == {direction.site}
        assert {d.config["method"] for d in drawn} == {"shuffled_labels"}
        np.testing.assert_allclose([d.norm for d in drawn], direction.norm, rtol=1e-5)
        vectors = np.array([d.vector for d in drawn])
        assert len(np.unique(vectors.round(6), axis=0)) > 10  # few states: some draws coincide
        again = direction.shuffled(20, seed=1)
        assert all((a.vector == b.vector).all() for a, b in zip(drawn, again, strict=True))
        other = direction.shuffled(20, seed=2)
        assert any((a.vector != b.vector).any() for a, b in zip(drawn, other, strict=True))
        longer = direction.with_norm(3.0)  # carries it on
        np.testing.assert_allclose([d.norm for d in longer.shuffled(2)], 3.0, rtol=1e-5)
        assert direction.shuffled(0) == ()


def test_a_probe_of_shuffled_labels_has_lost_what_was_planted_and_one_that_kept_them_has_not():
    x, y = planted()
    axis = np.eye(24)[0]
    probe = a_probe()
    assert probe.cosine(axis.astype(np.float32)) > 0.8
    lost = [abs(d.cosine(axis.astype(np.float32))) for d in probe.shuffled(20)]
    assert np.mean(lost) < 0.4
    kept = probe_direction(SITE, fitted(x, y), refit=lambda _: fitted(x, y))  # does not shuffle
    assert min(d.cosine(axis.astype(np.float32)) for d in kept.shuffled(20)) > 0.8


def test_a_dose_curve_has_both_controls_without_being_asked(atlas, pairs, contrast):
    found = dose_curve(
        atlas, contrast.mean_difference(), pairs, [0.0, 1.0], at="subject", new_tokens=0
    )
    assert len(found.rows_of("random")) == len(found.rows_of("shuffled")) == 20
    assert {"random_directions", "shuffled_directions"} == {*found.controls.values}
    assert found.undefined == ()
    assert found.summary()["shuffled_directions"] == 20
    assert {*found.matched()["control"]} == {"random", "shuffled"}
    assert "not defined" not in repr(found) + found.controls.note
    same = dose_curve(
        atlas, contrast.mean_difference(), pairs, [0.0, 1.0], at="subject", new_tokens=0,
        shuffled=contrast.shuffled(20),
    )  # fmt: skip
    np.testing.assert_allclose(same.effect, found.effect, atol=1e-3)  # one way of drawing them
    success = (found.effect[:, 1] > 0).mean(-1)
    assert success[0] >= 0.8
    assert success[found.rows_of("shuffled")].mean() <= 0.4


def test_directions_of_one_contrast_share_their_shuffles_and_a_latent_has_none(
    atlas, pairs, contrast, tmp_path
):
    latent = latent_direction(atlas, random_sae(SITE, d=128, width=32), 4)
    own = [contrast.mean_difference(), contrast.pca(), latent]
    found = dose_curve(atlas, own, pairs, [1.0], at="subject", random=2, shuffled=3, new_tokens=0)
    assert len(found.rows_of("shuffled")) == 3
    assert found.undefined == (f"{NONE} ({latent.label})",)
    assert found.unshuffled == ("", "", NONE)
    frame = found.matched()
    by = frame.groupby("direction")["control"].agg(set).to_dict()
    assert by[latent.label] == {"random"}  # not beside the shuffles of other directions
    assert by[contrast.label] == {"random", "shuffled"}
    for text in (repr(found), found.controls.note, found.controlled,
                 found.plot().layout.title.subtitle.text.replace("<br>", " ")):  # fmt: skip
        assert NONE in text
    assert lensbench.results.load(found.save(tmp_path / "c")) == found


def test_a_pair_of_prompts_has_no_labels_and_says_so(atlas, pairs):
    d = activation_addition(atlas, "The queens", "The queen", SITE)
    found = dose_curve(atlas, d, pairs, [0.5], random=1, new_tokens=0)
    assert not len(found.rows_of("shuffled"))
    assert NONE in repr(found)
    assert found.summary()["shuffled_directions"] == 0
    with pytest.raises(NotEnoughDataError, match=NONE):
        d.shuffled()


def test_too_few_states_and_directions_from_disk_say_what_is_missing(
    atlas, pairs, contrast, tmp_path
):
    few = Contrast(SITE, contrast.plus[:3], contrast.minus[:3], label="few").mean_difference()
    direction = contrast.mean_difference()
    read = lensbench.results.load(direction.save(tmp_path / "d"))
    assert read == direction
    found = dose_curve(atlas, [few, read], pairs, [0.5], at="subject", random=0, new_tokens=0)
    told = " ".join(found.undefined)
    assert "at least four states on each side" in told
    assert "no labels kept with this direction (mean_difference)" in told
    with pytest.raises(NotEnoughDataError, match="refit"):
        probe_direction(SITE, np.ones(128)).shuffled()
    with pytest.raises(ConfigError, match="shuffled"):
        dose_curve(atlas, direction, pairs, [0.5], shuffled=-1)
    with pytest.raises(ConfigError, match="n must"):
        direction.shuffled(-1)
    own = Direction(site=SITE, vector=np.ones(128))
    with pytest.raises(NotEnoughDataError, match="of your own"):
        own.shuffled()


@pytest.mark.illtyped
def test_slips_of_type_are_named(atlas, pairs, contrast):
    with pytest.raises(ConfigError, match="refit must be a function"):
        probe_direction(SITE, np.ones(128), refit=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="shuffled"):
        dose_curve(atlas, contrast.mean_difference(), pairs, [0.5], shuffled="20")  # pyright: ignore[reportArgumentType]
