"""Drafts of models whose useful layers are known: what is accepted, and where DEL goes."""

import math

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import Warp, greedy
from lensbench.interventions.acceleration.speculative.del_rule import DelRule
from lensbench.interventions.acceleration.speculative.dynamic import dynamic_exit, scheduled_exit
from lensbench.interventions.acceleration.speculative.schedules import (
    AdaptiveThreshold,
    ConfidenceStop,
    DraftLengthFSM,
)
from tests.helpers import random_ids, tiny

PROMPT = random_ids(1, 9, seed=5)
N, LAYERS, USEFUL = 40, 6, 4


def zero_tail(useful: int = USEFUL, seed: int = 4):
    """A llama of 6 random layers of which all from ``useful`` on write nothing."""
    module = tiny("llama", seed=seed, num_hidden_layers=LAYERS, max_position_embeddings=128)
    with torch.no_grad():
        for layer in module.model.layers[useful:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return lensbench.load_model(module, certify=False)


@pytest.fixture(scope="module")
def tail():
    return zero_tail()


def test_del_goes_to_the_first_layer_after_which_nothing_is_written(tail) -> None:
    rule = DelRule(LAYERS)
    found = dynamic_exit(tail, PROMPT, N, rule=rule)
    assert found.new == greedy(tail, PROMPT, N).new
    exits = [r.exit_layer for r in found.rounds if r.drafted]
    assert exits == [1] + [USEFUL] * (len(exits) - 1)
    assert rule.history[0].alpha[USEFUL - 1 :] == (1.0, 1.0)
    assert all(c.draft_length == 17 for c in rule.history)
    # No mismatch was ever seen there: tau is NaN, and drafts run to 18 or to the end of the text.
    assert math.isnan(rule.history[-1].threshold)
    assert [r.drafted for r in found.rounds[1:-1]] == [18] * (len(found.rounds) - 2)
    assert all(r.accepted == r.drafted for r in found.rounds[1:])


def test_without_a_silent_tail_del_stays_low() -> None:
    model = zero_tail(useful=LAYERS)
    rule = DelRule(LAYERS)
    found = dynamic_exit(model, PROMPT, N, rule=rule)
    assert found.new == greedy(model, PROMPT, N).new
    assert found.acceptance < 0.5


@pytest.mark.parametrize("length", [1, 9, 40])
def test_del_reads_every_layer_of_the_accepted_text_and_nothing_else(length) -> None:
    """The sums of the rule equal those of one teacher-forced pass over the finished text."""
    prompt = random_ids(1, length, seed=5)
    since = max(0, length - 32)
    rule = DelRule(LAYERS, omega=1.0)
    model = zero_tail(useful=5)
    found = dynamic_exit(model, prompt, N, rule=rule)
    text = torch.tensor([[*found.prompt, *found.new]])
    states = model.run(text, capture=[f"blocks.{n}.resid_post" for n in range(LAYERS)]).acts
    reading = torch.stack(
        [model.unembed(states[f"blocks.{n}.resid_post"])[0].argmax(-1) for n in range(LAYERS)]
    )
    until = len(found.prompt) + sum(r.accepted + 1 for r in found.rounds[:-1]) - 1
    hits = (reading[:-1, since:until] == reading[-1, since:until]).sum(1).numpy()
    np.testing.assert_array_equal(rule._counts[1], hits)
    np.testing.assert_array_equal(rule._counts.sum(0), [until - since] * (LAYERS - 1))


@pytest.mark.parametrize(
    "schedule", [DraftLengthFSM(3), AdaptiveThreshold(0.3), ConfidenceStop(0.2, 6)]
)
def test_schedules_change_the_rounds_and_not_the_text(tail, schedule) -> None:
    wanted = greedy(tail, PROMPT, N).new
    for exit_layer in (1, USEFUL):
        found = scheduled_exit(tail, PROMPT, exit_layer, schedule, N)
        assert found.new == wanted
    assert found.acceptance == 1.0


def test_the_draft_length_follows_the_rounds(tail) -> None:
    rounds = scheduled_exit(tail, PROMPT, USEFUL, DraftLengthFSM(2, most=5), N).rounds
    assert [r.drafted for r in rounds[:6]] == [2, 3, 4, 5, 5, 5]


def test_a_rule_for_another_model_is_refused(tail) -> None:
    with pytest.raises(ConfigError, match="7 layers, the model has 6"):
        dynamic_exit(tail, PROMPT, N, rule=DelRule(7))


def test_a_sampled_text_is_drafted_too(tail) -> None:
    warm = Warp(temperature=1.0, top_k=5)
    found = dynamic_exit(tail, PROMPT, N, warp=warm, seed=1)
    assert len(found.new) == N
    assert found.acceptance > 0.9  # p equals q from exit 4 on
