"""Our engines beside transformers' assisted generation: the same text, fewer layers run."""

import pytest
import torch

import lensbench
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import Warp, fixed_exit, greedy
from lensbench.interventions.acceleration.speculative.baseline import speculative_baseline
from lensbench.interventions.acceleration.speculative.reference import (
    transformers_assisted,
    transformers_early_exit,
)
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from tests.helpers import random_ids, tiny

PROMPT = random_ids(1, 7, seed=2)
N = 20


def load(kind: str = "llama", seed: int = 3, **changes):
    return lensbench.load_model(tiny(kind, seed=seed, **changes), certify=False)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "olmo2", "gemma"])
def test_early_exit_of_transformers_writes_our_text_and_runs_more_layers(kind) -> None:
    model = load(kind)
    config, settings = model.module.config.to_dict(), model.module.generation_config.to_dict()
    for exit_layer in (1, 2):
        theirs = transformers_early_exit(model, PROMPT, exit_layer, 4, N)
        ours = fixed_exit(model, PROMPT, exit_layer, 4, N)
        assert theirs.new == ours.new == greedy(model, PROMPT, N).new
        assert ours.counts.layer_tokens < theirs.counts.layer_tokens
        # Above the exit both run the same tokens; below it theirs run twice.
        assert theirs.counts.by_layer[2] == ours.counts.by_layer[2]
        assert theirs.counts.by_layer[0] > ours.counts.by_layer[0]
    assert model.module.config.to_dict() == config
    assert model.module.generation_config.to_dict() == settings


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt", "gptj", "bloom", "falcon"])
def test_architectures_that_run_every_layer_are_named_and_left_as_they_were(kind) -> None:
    model = load(kind)
    before = model.module.config.to_dict()
    with pytest.raises(ConfigError, match=f"{kind}.*llama, mistral, qwen2"):
        transformers_early_exit(model, PROMPT, 2, 4, N)
    assert model.module.config.to_dict() == before
    assert list(greedy(model, PROMPT, N).new) == model.generate(PROMPT, max_new_tokens=N)[0]


def test_an_exception_while_drafting_leaves_the_configuration_as_it_was() -> None:
    model = load()
    before = model.module.config.to_dict()
    layers = []

    def fail(*_: object) -> None:
        layers.append(model.module.config.num_hidden_layers)
        raise RuntimeError("on purpose")

    handle = model.module.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        transformers_early_exit(model, PROMPT, 1, 4, N)
    handle.remove()
    assert layers == [1]  # it failed while the exit was set
    assert model.module.config.to_dict() == before
    assert transformers_early_exit(model, PROMPT, 1, 4, N).new == greedy(model, PROMPT, N).new


@pytest.mark.parametrize("draft", [1, 4])
def test_a_draft_model_leaves_the_text_and_keeps_the_counts_apart(draft) -> None:
    model, small = load("llama"), load("gpt2", seed=9)
    found = speculative_baseline(model, PROMPT, small, draft, N)
    assert found.new == greedy(model, PROMPT, N).new
    assert sum(r.accepted + 1 for r in found.rounds) == N
    theirs = transformers_assisted(model, PROMPT, small, draft, N)
    assert theirs.new == found.new
    # The draft model reads each token of the text once, and every refused draft but a round's last.
    assert found.counts.by_layer == theirs.counts.by_layer
    assert found.draft_counts.by_layer[0] <= theirs.draft_counts.by_layer[0]


def test_the_model_as_its_own_draft_is_always_right() -> None:
    model = load("llama")
    found = speculative_baseline(model, PROMPT, model, 4, N)
    assert found.acceptance == 1.0
    # Both read the whole text once, but for the last token; the draft no last token of a draft.
    assert found.counts.by_layer[0] == PROMPT.shape[1] + N - 1
    warm = speculative_baseline(model, PROMPT, model, 4, N, warp=Warp(1.0), seed=2)
    assert warm.acceptance == 1.0
    unsure = speculative_baseline(
        model, PROMPT, model, 4, N, schedule=ConfidenceStop(1.1, 4)
    )  # no probability reaches 1.1: one draft a round
    assert max(r.drafted for r in unsure.rounds) == 1


def test_settings_out_of_range_are_refused_in_words() -> None:
    model = load("llama")
    other = load("llama", vocab_size=50)
    for call, words in [
        (lambda: speculative_baseline(model, PROMPT, other, 4, N), "has 50 tokens"),
        (lambda: transformers_assisted(model, PROMPT, other, 4, N), "vocabulary"),
        (lambda: speculative_baseline(model, PROMPT, model, 0, N), "draft"),
        (lambda: speculative_baseline(model, PROMPT, load("t5"), 2, N), "encoder|vocabulary"),
        (lambda: transformers_early_exit(model, PROMPT, 3, 2, N), "1 to 2"),
        (lambda: transformers_early_exit(model, PROMPT, 1, 0, N), "draft"),
        (lambda: speculative_baseline(model, torch.ones(2, 3, dtype=torch.long), model), "one"),
        (lambda: speculative_baseline(model, PROMPT, model, 2, 1000), "context"),
    ]:
        with pytest.raises(ConfigError, match=words):
            call()
