"""Every drafting engine writes the full model's text, on every decoder family."""

import pytest
import torch

import lensbench
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import greedy
from lensbench.interventions.acceleration.speculative.baseline import speculative_baseline
from lensbench.interventions.acceleration.speculative.dynamic import dynamic_exit, scheduled_exit
from lensbench.interventions.acceleration.speculative.kangaroo import kangaroo
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.speculative.schedules import (
    AdaptiveThreshold,
    DraftLengthFSM,
)
from lensbench.interventions.acceleration.speculative.skips import draft_and_verify
from lensbench.interventions.acceleration.speculative.swift import SwiftSearch, swift
from lensbench.plan import Add, edit, skip_layers
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, EXPERTS, WITHOUT_INTERFACE

PROMPT = random_ids(1, 7, seed=2)
N = 12

ENGINES = {
    "del": lambda m, **k: dynamic_exit(m, PROMPT, N, **k),
    "length": lambda m, **k: scheduled_exit(m, PROMPT, 2, DraftLengthFSM(2), N, **k),
    "threshold": lambda m, **k: scheduled_exit(m, PROMPT, 1, AdaptiveThreshold(0.1), N, **k),
    "skips": lambda m, **k: draft_and_verify(m, PROMPT, [("attn", 1), ("mlp", 2)], N, **k),
    "swift": lambda m, **k: swift(m, PROMPT, N, search=SwiftSearch(3, window=4), **k),
    "kangaroo": lambda m, **k: kangaroo(m, PROMPT, KangarooAdapter.new(m, 2), N, **k),
    "second model": lambda m, **k: speculative_baseline(m, PROMPT, m, 3, N, **k),
}


@pytest.mark.parametrize("family", [*FAMILY_NAMES, *EXPERTS, *DECODERS, *WITHOUT_INTERFACE])
def test_the_text_is_that_of_plain_decoding(family) -> None:
    model = lensbench.load_model(tiny(family, seed=3), certify=False)
    wanted = greedy(model, PROMPT, N).new
    for name, engine in ENGINES.items():
        found = engine(model)
        assert found.new == wanted, name
        assert sum(r.accepted + 1 for r in found.rounds) == N, name
        assert found.drafted > 0, name


@pytest.mark.parametrize("skips", [(), (0,), (2,)])
@pytest.mark.parametrize("name", list(ENGINES))
def test_under_a_plan_the_text_is_that_of_the_plan(name, skips) -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    step = 4 * torch.linspace(-1, 1, model.card.d_model)
    plan = edit("blocks.1.resid_post", Add(step)) + skip_layers(skips)
    wanted = greedy(model, PROMPT, N, plan=plan).new
    assert wanted != greedy(model, PROMPT, N).new
    assert ENGINES[name](model, plan=plan).new == wanted


@pytest.mark.parametrize("name", list(ENGINES))
def test_the_text_ends_where_it_ends_by_itself(name) -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    whole = greedy(model, PROMPT, N).new
    stop = whole[4]
    cut = whole[: whole.index(stop) + 1]
    assert ENGINES[name](model, stop_ids=[stop]).new == cut


@pytest.mark.parametrize("name", [n for n in ENGINES if n != "kangaroo"])
def test_what_has_an_encoder_or_a_state_is_refused_in_words(name) -> None:
    for kind, words in (("t5", "an encoder"), ("mamba", "a state"), ("bert", "encoder")):
        other = lensbench.load_model(tiny(kind, seed=3), certify=False)
        with pytest.raises(ConfigError, match=f"{words}.*llama, qwen2, gpt2"):
            ENGINES[name](other)
