"""Patching finds exactly the heads and places that were planted."""

import numpy as np
import pytest

import lensbench
from lensbench import interventions, prompts
from tests.induction_circuit import INDUCTION, PREVIOUS, induction_model, induction_pairs


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model(induction_model(), certify=False)


@pytest.fixture(scope="module")
def pairs():
    return induction_pairs()


def test_the_circuit_does_what_it_was_made_for(model, pairs):
    score = prompts.score(model, pairs)
    assert score.clean.min() > 5
    assert np.abs(score.corrupted).max() < 2.5


def test_denoising_heads_finds_the_two_planted_ones_and_no_other(model, pairs):
    found = interventions.patch_sweep(model, pairs, "attn.z", positions="together")
    grid = found.effect.reshape(2, 4)
    planted = np.zeros((2, 4))
    planted[PREVIOUS] = planted[INDUCTION] = 1.0
    assert grid == pytest.approx(planted, abs=1e-3)


def test_each_head_matters_at_its_own_place(model, pairs):
    found = interventions.patch_sweep(
        model, pairs, "attn.z", positions=["before", "answer", "end"]
    ).to_frame()
    found = found[found["kind"] == "patch"].set_index(["layer", "head", "position"])["effect"]
    assert found[(*PREVIOUS, "answer")] == pytest.approx(1.0, abs=1e-3)
    assert found[(*INDUCTION, "end")] == pytest.approx(1.0, abs=1e-3)
    rest = found.drop([(*PREVIOUS, "answer"), (*INDUCTION, "end")])
    assert rest.abs().max() < 1e-3


def test_noising_and_zeroing_either_head_loses_the_answer(model, pairs):
    noised = interventions.patch_sweep(
        model, pairs, "attn.z", positions="together", direction="noise"
    )
    assert noised.effect.reshape(2, 4)[PREVIOUS] == pytest.approx(0.0, abs=1e-3)
    for how in ("zero", "resample"):
        found = interventions.ablation_sweep(model, pairs, "attn.z", how=how)
        grid = found.effect.reshape(2, 4)
        lost = np.abs(grid - 1) > 1e-3
        assert set(zip(*np.nonzero(lost), strict=True)) == {PREVIOUS, INDUCTION}, how


def test_a_single_neuron_of_a_head_carries_one_token(model, pairs):
    """The value of head 1.2 is one-hot in the token, so that one dim of z is the answer."""
    one = pairs.select([0])
    found = interventions.patch_sweep(
        model, one, "attn.z", positions=["end"], layers=[1], heads=[INDUCTION[1]], dims=range(13)
    )
    best = int(np.argmax(found.effect))
    assert best == one.answer[0]


def test_patterns_are_patched_too(model, pairs):
    """What the induction head looks at, not what it reads, is what the corruption changed."""
    found = interventions.patch_sweep(model, pairs, "attn.pattern", positions="together")
    grid = found.effect.reshape(2, 4)
    assert grid[INDUCTION] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(np.delete(grid.ravel(), INDUCTION[0] * 4 + INDUCTION[1])).max() < 1e-3
