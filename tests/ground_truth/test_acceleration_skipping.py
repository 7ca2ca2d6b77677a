"""Skipping layers and halves of them: constructions whose answer is known, live against forced."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import LensbenchError
from lensbench.interventions.acceleration import (
    Budgets,
    Route,
    adaskip,
    adaskip_route,
    angular_route,
    decode_batch,
    decode_route,
    evenly_off,
    greedy,
    half_similarity,
    inference_stages,
    last_layers_off,
    linear_budgets,
    nested,
    robustness,
    route_damage,
    shortgpt_route,
    skip_decode,
    step_skips,
    swapped,
    whole_route,
    without,
)
from lensbench.interventions.acceleration.skipping.forced import Forced, forced_budgets
from lensbench.interventions.acceleration.skipping.stages import _local
from lensbench.plan import Zero, edit, skip_layers
from lensbench.results import load
from tests.helpers import random_ids, tiny

PROMPT = random_ids(1, 7, seed=2)
TEXT = random_ids(3, 20, seed=6)
N = 14


@pytest.fixture(scope="module")
def llama():
    return lensbench.load_model(tiny("llama", seed=3, num_hidden_layers=5), certify=False)


def silent(*halves):
    """A model of 5 layers some halves of whose blocks write nothing."""
    model = lensbench.load_model(tiny("llama", seed=3, num_hidden_layers=5), certify=False)
    for half, layer in halves:
        block = model.module.model.layers[layer]
        out = block.self_attn.o_proj if half == "attn" else block.mlp.down_proj
        out.weight.data.zero_()
    return model


def both(*layers):
    return [(half, layer) for layer in layers for half in ("attn", "mlp")]


def states(model, ids):
    names = ("resid_pre", "resid_mid", "resid_post")
    sites = [f"blocks.{i}.{name}" for name in names for i in range(model.n_layers)]
    acts = model.run(ids, capture=sites).acts
    return [
        torch.stack([acts[f"blocks.{i}.{name}"].flatten(0, 1) for i in range(model.n_layers)])
        for name in names
    ]


def test_deleting_a_layer_is_skipping_it_in_a_plan(llama) -> None:
    ids = TEXT[0]
    found = Forced(llama, ids).along(without(5, [2]))
    wanted = llama.run(ids[None], skip_layers([2])).logits[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_the_whole_route_and_two_swaps_change_nothing(llama) -> None:
    forced = Forced(llama, TEXT[0])
    assert torch.equal(forced.along(whole_route(5)), forced.full)
    order = list(swapped(5, 1).order)
    order[1], order[2] = order[2], order[1]
    assert torch.equal(forced.along(Route(tuple(order))), forced.full)
    moved = forced.along(swapped(5, 1))
    assert float((moved - forced.full).abs().max()) > 1e-2  # control: one swap does


def test_layers_that_write_nothing_can_be_deleted_and_swapped() -> None:
    model = silent(*both(2, 3))
    report = robustness(model, TEXT)
    frame = report.to_frame().set_index("route")
    for route in ("delete 2", "delete 3", "swap 2"):
        assert frame.loc[route, "kl"] < 1e-9
        assert frame.loc[route, "agreement"] == 1
    assert frame.loc["delete 0", "kl"] > 0.05  # control
    assert frame.loc["swap 0", "kl"] > 0.05
    assert frame.loc["delete 2", "perplexity"] == pytest.approx(
        frame.loc["delete 2", "full_perplexity"]
    )


def test_damage_is_the_divergence_of_the_two_models(llama) -> None:
    report = route_damage(llama, TEXT[:1], {"no 1": without(5, [1])})
    full = llama.run(TEXT[:1]).logits[0, :-1].double().log_softmax(-1)
    less = llama.run(TEXT[:1], skip_layers([1])).logits[0, :-1].double().log_softmax(-1)
    kl = torch.nn.functional.kl_div(less, full, log_target=True, reduction="sum") / 19
    row = report.of("no 1")
    assert row["kl"] == pytest.approx(float(kl), rel=1e-4)
    loss = torch.nn.functional.nll_loss(less, TEXT[0, 1:])
    assert row["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)
    assert row["layers"] == 4


def test_silent_halves_are_ranked_first_and_leaving_them_out_changes_nothing() -> None:
    model = silent(("attn", 3), ("mlp", 1))
    found = half_similarity(*states(model, TEXT))
    assert {half for half, _ in found.ranked()[:2]} == {("attn", 3), ("mlp", 1)}
    for half, layer in ((0, 3), (1, 1)):
        assert found.similarity[half, layer] == pytest.approx(1, abs=1e-12)
        assert found.ratio[half, layer] == pytest.approx(1, abs=1e-6)
    route = adaskip_route(found, 2)
    assert decode_route(model, PROMPT, route, N).new == greedy(model, PROMPT, N).new
    assert route.layers == 4
    worst = Route(tuple(range(5)), frozenset({found.ranked()[-1][0]}))
    assert decode_route(model, PROMPT, worst, N).new != greedy(model, PROMPT, N).new  # control


def test_halves_left_out_of_early_layers_are_left_out(llama) -> None:
    plan = edit("blocks.0.mlp_out", Zero()) + edit("blocks.2.attn_out", Zero())
    route = Route(tuple(range(5)), frozenset({("mlp", 0), ("attn", 2)}))
    found = Forced(llama, TEXT[0]).along(route)
    torch.testing.assert_close(found, llama.run(TEXT[:1], plan).logits[0], rtol=0, atol=2e-5)


def test_local_attention_counts_five_positions_back_and_never_the_first_token() -> None:
    n = 9
    first = torch.zeros(1, n, n)
    first[..., 0] = 1
    assert _local(first) == 0
    before = torch.diag(torch.ones(n - 1), -1)[None]
    assert _local(before) == n - 2  # the second token looks at the first
    far = torch.diag(torch.ones(n - 6), -6)[None]
    assert _local(far) == 0
    assert _local(torch.eye(n)[None]) == 0


def test_a_half_left_out_is_replaced_by_the_stream_times_its_factor(llama) -> None:
    route = Route(
        tuple(range(5)), frozenset({("attn", 2), ("mlp", 3)}), {("attn", 2): 1.5, ("mlp", 3): 0.7}
    )
    runner = llama.layers(20, plan=route.plan)
    kept: dict = {}
    h = runner.run(runner.embed(TEXT[:1], 0), 0, 2, 0)
    runner.run(h, 2, 5, 0, omit=route.omit, keep=kept)
    block = llama.module.model.layers[2]
    mid = 1.5 * h
    with torch.inference_mode():
        two = mid + block.mlp(block.post_attention_layernorm(mid))
    torch.testing.assert_close(kept[2], two, rtol=1e-4, atol=1e-5)
    plain = llama.layers(20)
    three = plain.run(plain.run(plain.embed(TEXT[:1], 0), 0, 3, 0), 3, 4, 0, omit=[("mlp", 3)])
    assert three.shape == kept[3].shape
    forced = Forced(llama, TEXT[0]).along(route)
    live = decode_route(llama, TEXT[:1], route, 1)
    assert live.new == (int(forced[-1].argmax()),)


def test_skipdecode_with_all_layers_is_plain_decoding_and_its_sets_are_nested(llama) -> None:
    full = greedy(llama, PROMPT, N)
    assert skip_decode(llama, PROMPT, linear_budgets(5, N, least=5), N).new == full.new
    falling = linear_budgets(5, N, least=2)
    assert nested([falling.blocks(t) for t in range(N)])
    assert falling.blocks(0) == (0, 1, 2, 3, 4)
    assert falling.blocks(N - 1) == (0, 4)  # one below, the rest from the top
    found = skip_decode(llama, PROMPT, falling, N)
    assert found.exits == falling.layers
    assert found.counts.layer_tokens == 7 * 5 + sum(falling.layers[1:])
    assert falling.mean_layers == pytest.approx(sum(found.exits) / N)


@pytest.mark.parametrize("least", [2, 3])
def test_live_skipdecode_is_the_masked_pass_over_its_own_text(llama, least) -> None:
    budgets = linear_budgets(5, N, least=least)
    found = skip_decode(llama, PROMPT, budgets, N)
    rows = [budgets.blocks(t) for t in range(N)]
    ids = torch.tensor([*found.prompt, *found.new[:-1]])
    logits, runner = forced_budgets(llama, ids, 7, rows)
    assert tuple(logits[6:].argmax(-1).tolist()) == found.new
    assert runner.counts.layer_tokens == found.counts.layer_tokens
    full = llama.run(ids[None]).logits[0, 6:].argmax(-1)
    assert tuple(full.tolist()) != found.new  # control: skipping does change this model


def test_skipdecode_over_silent_layers_is_exact() -> None:
    model = silent(*both(1, 2))
    budgets = linear_budgets(5, N, least=3)
    assert skip_decode(model, PROMPT, budgets, N).new == greedy(model, PROMPT, N).new


def test_the_variant_of_adaskips_code_skips_from_below() -> None:
    rows = step_skips(8, 600, 4)
    assert rows[0] == (0, 2, 3, 4, 5, 6, 7)
    assert rows[1] == (0, 3, 4, 5, 6, 7)
    assert rows[512] == (0, 5, 6, 7) == rows[599]
    assert nested(rows)


def test_prompt_or_not(llama) -> None:
    route = without(5, [1, 2])
    decode = decode_route(llama, PROMPT, route, N, phases="decode")
    always = decode_route(llama, PROMPT, route, N)
    assert decode.counts.layer_tokens == 6 * 5 + (1 + N - 1) * 3
    assert always.counts.layer_tokens == (7 + N - 1) * 3
    assert decode.new != always.new


def test_factors_act_on_new_tokens_alone_where_the_prompt_passes_the_whole_model(llama) -> None:
    route = Route(tuple(range(5)), frozenset({("mlp", 3)}), {("mlp", 3): 0.7})
    found = decode_route(llama, PROMPT, route, 2, phases="decode")
    runner = llama.layers(8)
    runner.run(runner.embed(PROMPT[:, :-1], 0), 0, 5, 0)
    runner.plan = route.plan
    first = runner.run(runner.embed(PROMPT[:, -1:], 6), 0, 5, 6, omit=route.omit)
    assert found.new[0] == int(runner.logits(first)[0, -1].argmax())
    both = decode_route(llama, PROMPT, route, 2)
    assert both.counts.layer_tokens == found.counts.layer_tokens - 6 / 2


def test_adaskip_adds_the_mlps_that_do_nothing_after_its_window_and_no_others() -> None:
    model = silent(("attn", 3), ("mlp", 1), ("mlp", 2))
    found = half_similarity(*states(model, TEXT))
    found.similarity[1, 2] = 0.0  # the calibration did not see this one
    full = greedy(model, PROMPT, N)
    run = adaskip(model, PROMPT, found, 2, N, window=4)
    assert run.new == full.new
    assert run.exits == (8,) * 5 + (7,) * (N - 5)
    busy = silent(("attn", 3), ("mlp", 1))
    calm = adaskip(busy, PROMPT, half_similarity(*states(busy, TEXT)), 2, N, window=4)
    assert set(calm.exits) == {8}  # control: nothing else is as still


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "gemma2"])
def test_prompts_of_any_length_in_a_batch_are_decoded_as_each_alone(kind) -> None:
    model = lensbench.load_model(tiny(kind, seed=3), certify=False)
    prompts = [row[:n].tolist() for row, n in zip(TEXT, (9, 4, 7), strict=True)]
    budgets, some = linear_budgets(3, N, least=2), without(3, [1])
    together = decode_batch(model, prompts, None, N)
    for row, prompt in zip(together.new, prompts, strict=True):
        assert row == greedy(model, [prompt], N).new
    assert together.counts.layer_tokens == 3 * 3 * (9 + N - 1)
    for route, alone in ((some, decode_route), (budgets, skip_decode)):
        rows = decode_batch(model, prompts, route, N).new
        assert rows == tuple(alone(model, [p], route, N).new for p in prompts)
        assert rows != together.new  # control: what is skipped matters


def test_a_text_of_a_batch_ends_by_itself(llama) -> None:
    prompts = [row[:6].tolist() for row in TEXT]
    whole = decode_batch(llama, prompts, None, N).new
    stop = whole[1][3]
    cut = decode_batch(llama, prompts, None, N, stop_ids=[stop]).new
    for a, b in zip(cut, whole, strict=True):
        assert a == (b[: b.index(stop) + 1] if stop in b else b)


def test_influence_and_angle_choose_what_turns_the_stream_least() -> None:
    assert shortgpt_route([0.5, 0.1, 0.3, 0.05], 2).order == (0, 2)
    table = np.full((4, 5), 0.9)
    table[1, 2] = 0.1
    table[3, 2] = 0.0  # no block of two begins there
    assert angular_route(table, 2).order == (0, 3)
    assert last_layers_off(4, 1).order == (0, 1, 2)
    assert evenly_off(8, 4).order == (0, 2, 4, 6)


def test_influence_ranks_deletions_where_one_layer_does_nothing() -> None:
    model = silent(*both(2))
    before, _, after = states(model, TEXT)
    influence = 1 - torch.cosine_similarity(before.double(), after.double(), dim=-1).mean(1)
    report = robustness(model, TEXT)
    assert int(influence.argmin()) == 2
    guess = {f"delete {i}": float(v) for i, v in enumerate(influence)}
    assert report.rank_correlation(guess) > 0
    assert float(influence[2]) == pytest.approx(0, abs=1e-9)


def test_a_planted_prediction_neuron_is_counted_and_its_negative_suppresses() -> None:
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    plain = inference_stages(model, TEXT)
    head, down = (
        model.module.lm_head.weight.data,
        model.module.model.layers[1].mlp.down_proj.weight.data,
    )
    token = torch.linalg.pinv(head.double())[:, 5].float()
    down[:, 0], down[:, 1] = token, -token
    planted = inference_stages(model, TEXT)
    assert planted.prediction_neurons[1] == plain.prediction_neurons[1] + 1
    assert planted.suppression_neurons[1] == plain.suppression_neurons[1] + 1
    assert planted.lens_kl[-1] == pytest.approx(0, abs=1e-9)
    assert 0 <= planted.local_attention.min() <= planted.local_attention.max() <= 1
    assert (planted.prediction_neurons[[0, 2]] == plain.prediction_neurons[[0, 2]]).all()


def test_results_come_back_as_they_were(llama, tmp_path) -> None:
    for name, result in (("r", robustness(llama, TEXT)), ("s", inference_stages(llama, TEXT))):
        result.save(tmp_path / name)
        assert load(tmp_path / name) == result
        assert result.plot().data
        assert len(result.to_frame())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _: without(5, [7]), "0..4"),
        (lambda _: swapped(5, 4), "have one after them"),
        (lambda m: decode_route(m, PROMPT, Route((0, 0, 1)), N), "once per token"),
        (lambda m: decode_route(m, PROMPT, Route((0, 9)), N), "0..4"),
        (lambda m: decode_route(m, PROMPT, whole_route(5), N, phases="all"), "decode"),
        (lambda _: Budgets(5, (2, 3)), "must not grow"),
        (lambda _: Budgets(5, (9, 3)), "number of layers"),
        (lambda m: skip_decode(m, PROMPT, linear_budgets(4, N, least=2), N), "the model has 5"),
        (lambda m: skip_decode(m, PROMPT, [(0, 1), (0, 2)], N), "keys would be missing"),
        (lambda _: shortgpt_route([0.1, float("nan")], 1), "finite"),
        (lambda _: angular_route(np.zeros((3, 3)), 1), "layers"),
        (lambda _: evenly_off(5, 4), "at most 2"),
        (lambda m: adaskip_route(half_similarity(*states(m, TEXT)), 11), "10 halves"),
        (lambda m: route_damage(m, TEXT, {}), "routes is empty"),
        (lambda m: decode_route(m, PROMPT, [0, 1], N), "must be a Route"),
        (lambda m: skip_decode(m, PROMPT, [[0, 1.5]], N), "whole number"),
        (lambda m: decode_batch(m, PROMPT, Route((9,)), N), "0..4"),
        (lambda m: route_damage(m, [[1]], {"a": whole_route(5)}), "two tokens"),
        (lambda _: half_similarity(*(torch.zeros(2, 0, 3),) * 3), "tokens"),
    ],
)
def test_what_cannot_be_run_is_refused_in_words(llama, call, words) -> None:
    with pytest.raises(LensbenchError, match=words):
        call(llama)
