"""Ranges of layers with keys and values of their own lengths, on every decoder-only family."""

import copy

import pytest
import torch

import lensbench
from lensbench import Plan
from lensbench.errors import ConfigError
from lensbench.plan import Add, Set, edit
from lensbench.tokens import Tokens
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, EXPERTS, WITHOUT_INTERFACE

IDS = random_ids(2, 12, seed=5)
ALL = [*FAMILY_NAMES, *EXPERTS, *DECODERS, *WITHOUT_INTERFACE]
TOLERANCE = 5e-5


@pytest.fixture(scope="module", params=ALL)
def model(request):
    return lensbench.load_model(tiny(request.param, seed=3), certify=False)


def through(runner, ids, start, end, **options):
    """Logits of tokens ``start .. end - 1`` through all blocks."""
    h = runner.embed(ids[:, start:end], start)
    return runner.logits(runner.run(h, 0, runner.n_layers, start, **options))


def same(found, wanted) -> bool:
    return float((found - wanted).abs().max()) < TOLERANCE


def test_pieces_of_any_length_give_the_logits_of_the_whole(model) -> None:
    wanted, runner = model.run(IDS).logits, model.layers(14, rows=2)
    cuts = ((0, 5), (5, 8), (8, 9), (9, 12))
    assert same(torch.cat([through(runner, IDS, a, b) for a, b in cuts], 1), wanted)
    runner.crop(6)
    assert same(through(runner, IDS, 6, 12), wanted[:, 6:])
    swapped = IDS.flip(1)  # control: other tokens in the past give other logits
    runner.crop(0)
    through(runner, swapped, 0, 6)
    assert not same(through(runner, IDS, 6, 12), wanted[:, 6:])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_texts_of_a_few_tokens_run_whole_and_token_by_token(model, n) -> None:
    ids, runner = IDS[:1, :n], model.layers(n)
    wanted = model.run(Tokens(ids, torch.ones_like(ids, dtype=torch.bool))).logits
    assert same(through(runner, ids, 0, n), wanted)
    runner.crop(0)
    assert same(torch.cat([through(runner, ids, t, t + 1) for t in range(n)], 1), wanted)


def test_lower_blocks_run_ahead_and_the_others_follow_over_their_states(model) -> None:
    wanted, runner = model.run(IDS).logits, model.layers(12, rows=2)
    through(runner, IDS, 0, 8)
    states = [runner.run(runner.embed(IDS[:, t : t + 1], t), 0, 1, t) for t in range(8, 12)]
    assert runner.cache.lengths == [12] + [8] * (runner.n_layers - 1)
    late = runner.logits(runner.run(torch.cat(states, 1), 1, runner.n_layers, 8))
    assert same(late, wanted[:, 8:])
    assert runner.counts.layer_tokens == 2 * 12 * runner.n_layers
    with pytest.raises(ConfigError, match="holds 12 tokens"):
        runner.run(states[0], 0, 1, 8)


def test_sublayers_left_out_add_nothing_and_do_not_run(model) -> None:
    plan = edit("blocks.1.mlp_out", Set(0.0)) + edit("blocks.2.attn_out", Set(0.0))
    wanted, runner = model.run(IDS, plan).logits, model.layers(12, rows=2)
    assert same(through(runner, IDS, 0, 12, omit=[("mlp", 1), ("attn", 2)]), wanted)
    assert runner.counts.layer_tokens == 2 * 12 * (runner.n_layers - 1)
    assert runner.cache.lengths[2] == 0
    assert not same(model.run(IDS).logits, wanted)  # control: they matter
    runner.crop(0)
    assert same(through(runner, IDS, 0, 12), model.run(IDS).logits)  # and are back afterwards


def test_a_plan_acts_at_every_token(model) -> None:
    plan = edit("blocks.1.resid_post", Add(torch.linspace(-1, 1, model.card.d_model)))
    wanted, runner = model.run(IDS, plan).logits, model.layers(12, rows=2, plan=plan)
    found = torch.cat([through(runner, IDS, a, b) for a, b in ((0, 7), (7, 8), (8, 12))], 1)
    assert same(found, wanted)
    assert not same(found, model.run(IDS).logits)


def test_padding_on_the_left_changes_nothing(model) -> None:
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, :3] = False
    wanted = model.run(Tokens(IDS, mask)).logits
    runner = model.layers(12, rows=2, mask=mask[:, :9])
    found = torch.cat([through(runner, IDS, a, b) for a, b in ((0, 9), (9, 10), (10, 12))], 1)
    assert same(found[mask], wanted[mask])
    alone = model.run(IDS[1:, 3:]).logits
    assert same(found[1:, 3:], alone)


def test_a_filled_block_holds_the_keys_and_values_of_a_block_that_ran(model) -> None:
    ran, filled = model.layers(12, rows=2), model.layers(12, rows=2)
    h = ran.embed(IDS, 0)
    ran.run(h, 0, 1, 0)
    filled.fill(h, [0], 0)
    for a, b in zip(ran.cache.held(0), filled.cache.held(0), strict=True):
        assert same(a, b)
    assert filled.counts.layer_tokens == 0
    assert filled.counts.filled == 24


def test_a_copied_model_has_plain_sublayers(model) -> None:
    runner = model.layers(12, rows=2)
    through(runner, IDS, 0, 12, omit=[("mlp", 0)])
    twin = copy.deepcopy(model)
    assert torch.equal(twin.run(IDS).logits, model.run(IDS).logits)
    assert "SublayerForward" not in {type(m.forward).__name__ for m in twin.module.modules()}


def test_blocks_run_without_our_hooks_on_the_same_weights_and_with_those_of_others() -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    block = model.module.model.layers[1]
    seen: list[int] = []
    handle = block.mlp.register_forward_hook(lambda *_: seen.append(1))
    runner = model.layers(12, rows=2)
    twin = runner._plain[1]
    assert twin.mlp.gate_proj.weight is block.mlp.gate_proj.weight
    assert len(twin.mlp._forward_hooks) == 1 < len(block.mlp._forward_hooks)
    assert "forward" not in vars(twin)
    through(runner, IDS, 0, 12)
    assert seen == [1]
    handle.remove()
    block.mlp.down_proj.weight.data.mul_(2)  # training goes on: the twin sees it
    runner.crop(0)
    assert same(through(runner, IDS, 0, 12), model.run(IDS).logits)
    assert len(block.mlp._forward_hooks) > 0  # and captures still work
    assert model.run(IDS, capture="blocks.1.mlp_out").acts


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, _: m.layers(10_000), "context of this model"),
        (lambda m, _: m.layers(0), "room for 0"),
        (lambda m, h: m.layers(8).run(h, 2, 99, 0), "not a range within"),
        (lambda m, h: m.layers(2).run(h, 0, 1, 0), "does not fit into the room"),
        (lambda m, h: m.layers(8).run(h, 0, 1, 3), "holds 0 tokens"),
        (lambda m, h: m.layers(8).run(h, 0, 1, 0, omit=[("head", 1)]), "sublayers are pairs"),
        (lambda m, _: m.layers(8, plan=Plan(skips=frozenset({99}))), "99"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words(call, words) -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    with pytest.raises(lensbench.errors.LensbenchError, match=words):
        call(model, torch.zeros(1, 4, model.card.d_model))


@pytest.mark.parametrize(("kind", "why"), [("mamba", "has a state"), ("t5", "has an encoder")])
def test_architectures_without_keys_per_token_are_refused(kind, why) -> None:
    model = lensbench.load_model(tiny(kind, seed=3), certify=False)
    with pytest.raises(ConfigError, match=why):
        model.layers(8)


def test_a_block_that_fails_leaves_the_model_as_it_was() -> None:
    model = lensbench.load_model(tiny("gpt2", seed=3), certify=False)
    before, runner = model.run(IDS).logits, model.layers(12, rows=2)
    with pytest.raises(RuntimeError):
        runner.run(torch.zeros(2, 4, model.card.d_model + 1), 0, 1, 0, omit=[("mlp", 0)])
    assert torch.equal(model.run(IDS).logits, before)
