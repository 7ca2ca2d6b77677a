"""Drafts of an exit layer, checked by all layers: the text is the full model's, on every family."""

import pytest
import torch

import lensbench
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import Warp, fixed_exit, greedy
from lensbench.plan import Add, edit, skip_layers
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, EXPERTS, WITHOUT_INTERFACE

PROMPT = random_ids(1, 7, seed=2)
N = 14


@pytest.fixture(scope="module", params=[*FAMILY_NAMES, *EXPERTS, *DECODERS, *WITHOUT_INTERFACE])
def model(request):
    return lensbench.load_model(tiny(request.param, seed=3), certify=False)


def test_greedy_text_is_that_of_generate(model) -> None:
    assert list(greedy(model, PROMPT, N).new) == model.generate(PROMPT, max_new_tokens=N)[0]


@pytest.mark.parametrize(("exit_layer", "draft"), [(1, 1), (1, 4), (2, 3), (3, 6)])
def test_drafts_of_any_layer_leave_the_text_unchanged(model, exit_layer, draft) -> None:
    wanted = greedy(model, PROMPT, N)
    found = fixed_exit(model, PROMPT, exit_layer, draft, N)
    assert found.new == wanted.new
    assert sum(r.accepted + 1 for r in found.rounds) == N
    assert all(r.drafted <= draft for r in found.rounds)
    if exit_layer == model.n_layers:
        assert found.acceptance == 1.0


@pytest.mark.parametrize("skips", [(), (0,)])
def test_under_a_plan_the_text_is_that_of_the_plan(model, skips) -> None:
    step = 4 * torch.linspace(-1, 1, model.card.d_model)
    plan = edit("blocks.1.resid_post", Add(step)) + skip_layers(skips)
    wanted = model.generate(PROMPT, plan, max_new_tokens=N)[0]
    found = fixed_exit(model, PROMPT, 2, 3, N, plan=plan)
    assert list(found.new) == wanted
    assert set(found.counts.by_layer) == {i for i in range(model.n_layers) if i not in skips}


def test_padding_tokens_inside_a_prompt_are_text() -> None:
    model = lensbench.load_model(tiny("llama", seed=3, pad_token_id=0), certify=False)
    prompt = [5, 0, 0, 7, 0, 9]
    wanted = greedy(model, [prompt], N).new
    assert fixed_exit(model, [prompt], 1, 3, N).new == wanted
    text = list(prompt)
    for _ in range(N):  # by transformers, every token attended to
        ids = torch.tensor([text])
        logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        text.append(int(logits[0, -1].argmax()))
    assert tuple(text[len(prompt) :]) == wanted
    hidden = [i for i in prompt if i]  # control: the tokens matter
    assert greedy(model, [hidden], N).new != wanted


def test_no_layer_runs_twice_on_a_token() -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    full, all_kept = greedy(model, PROMPT, N), fixed_exit(model, PROMPT, 3, 4, N)
    assert all_kept.counts.layer_tokens == full.counts.layer_tokens
    assert all_kept.counts.by_layer == full.counts.by_layer
    cheap = fixed_exit(model, PROMPT, 1, 4, N)
    rejected = cheap.drafted - cheap.accepted
    assert cheap.counts.layer_tokens == full.counts.layer_tokens + 3 * rejected


def test_the_text_ends_where_it_ends_by_itself() -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    whole = greedy(model, PROMPT, N).new
    stop = whole[4]
    cut = whole[: whole.index(stop) + 1]
    assert greedy(model, PROMPT, N, stop_ids=[stop]).new == cut
    assert fixed_exit(model, PROMPT, 3, 6, N, stop_ids=[stop]).new == cut


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: fixed_exit(m, PROMPT, 0, 3, 9), "at least 1"),
        (lambda m: fixed_exit(m, PROMPT, 4, 3, 9), "1 to 3 for this model of 3 layers"),
        (lambda m: fixed_exit(m, PROMPT, 2, 0, 9), "draft"),
        (lambda m: fixed_exit(m, random_ids(2, 5, seed=1), 2, 2, 9), "one prompt"),
        (lambda m: greedy(m, PROMPT, 10_000), "context"),
        (lambda _: Warp(temperature=-1.0), "temperature"),
        (lambda _: Warp(top_p=0.0), "top_p"),
        (lambda _: Warp(top_p="a"), "top_p"),
        (lambda _: Warp(temperature="a"), "temperature"),
        (lambda _: Warp(temperature=1.0, top_k=2.5), "top_k"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(call, words) -> None:
    model = lensbench.load_model(tiny("gpt2", seed=3), certify=False)
    with pytest.raises(ConfigError, match=words):
        call(model)
