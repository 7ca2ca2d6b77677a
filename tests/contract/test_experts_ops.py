"""Operations on routing, on every mixture of experts the workbench knows: what each must do."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.models import load_model
from lensbench.models.families import part
from lensbench.models.routers import choose
from lensbench.plan import (
    Add,
    ForceExperts,
    Plan,
    RerouteExperts,
    Scale,
    ScaleExperts,
    SuppressExperts,
    Zero,
    edit,
)
from tests.helpers import tiny
from tests.zoo import EXPERTS

IDS = torch.tensor([[1, 9, 4, 33, 7, 21, 50, 8, 14, 3], [1, 30, 2, 5, 44, 12, 9, 60, 18, 27]])
ONE_OF_EACH = (SuppressExperts, RerouteExperts, ForceExperts, ScaleExperts)


@cache
def loaded(kind: str, backend: str = "native") -> Any:
    module = tiny(kind)
    if kind == "deepseek_v3":  # buffers are not drawn with the weights
        for layer in (1, 2):
            bias = module.model.layers[layer].mlp.gate.e_score_correction_bias
            bias.copy_(torch.linspace(0.6, -0.6, len(bias))[torch.randperm(len(bias))])
    return load_model(module, certify=False, backend=backend)


def names(layer: int) -> list[str]:
    return [f"blocks.{layer}.router.{n}" for n in ("logits", "weights", "indices")]


def routing(model: Any, layer: int, plan: Plan = Plan(), ids: Any = IDS) -> Any:  # noqa: B008
    out = model.run(ids, plan, capture=names(layer))
    return out, *(out.acts[n] for n in names(layer))


def at(layer: int, op: Any, **where: Any) -> Plan:
    return edit(f"blocks.{layer}.router.weights", op, **where)


def chosen_somewhere(indices: torch.Tensor) -> int:
    """An expert that some tokens chose and others did not."""
    for expert in range(16):
        hit = (indices == expert).any(-1)
        if 0 < int(hit.sum()) < hit.numel():
            return expert
    raise AssertionError("the toy routes all tokens alike")


def unused(model: Any, layer: int, ids: Any) -> int:
    used = set(routing(model, layer, ids=ids)[3].unique().tolist())
    return next(e for e in range(model.card.n_experts) if e not in used)


@pytest.mark.parametrize("kind", EXPERTS)
def test_the_rule_written_out_is_what_the_router_does_bit_for_bit(kind: str) -> None:
    model = loaded(kind)
    _, logits, weights, indices = routing(model, 2)
    block = model.module.get_submodule(model.layout.family.blocks)[2]
    rule = choose(model.layout.family.moe.rule, part(block, model.layout.family.moe.router))
    again, which = rule(logits.flatten(0, 1))
    assert torch.equal(again.view_as(weights), weights)
    assert torch.equal(which.view_as(indices), indices)


@pytest.mark.parametrize("kind", EXPERTS)
def test_suppressing_zeroes_the_slot_and_restores_the_previous_sum(kind: str) -> None:
    model = loaded(kind)
    _, _, weights, indices = routing(model, 2)
    expert = chosen_somewhere(indices)
    out, logits, after, which = routing(model, 2, at(2, SuppressExperts((expert,))))
    hit = indices == expert
    touched = hit.any(-1)
    assert torch.equal(which, indices)
    assert (after[hit] == 0).all()
    assert torch.equal(after[~touched], weights[~touched])
    torch.testing.assert_close(after.sum(-1), weights.sum(-1), rtol=1e-6, atol=0)
    other = (after / weights)[touched[..., None] & ~hit]
    assert (other > 1).all()  # the others grew, all alike within a token
    clean = model.run(IDS).logits
    assert torch.equal(logits, routing(model, 2)[1])
    assert float((out.logits - clean)[touched].abs().max()) > 1e-4


@pytest.mark.parametrize("kind", EXPERTS)
def test_all_chosen_suppressed_means_no_routed_output(kind: str) -> None:
    model = loaded(kind)
    everyone = tuple(range(model.card.n_experts))
    shared = "blocks.2.experts.shared_out"
    plan = at(2, SuppressExperts(everyone))
    _, _, weights, _ = routing(model, 2, plan)
    assert (weights == 0).all()
    by_hand = model.run(IDS, edit("blocks.2.router.weights", Zero())).logits
    assert torch.equal(model.run(IDS, plan).logits, by_hand)
    assert bool(torch.isfinite(by_hand).all())
    if shared not in map(str, model.sites()):
        mlp = model.run(IDS, plan, "blocks.2.mlp_out").acts["blocks.2.mlp_out"]
        assert (mlp == 0).all()
    gone, _, weights, _ = routing(model, 2, at(2, RerouteExperts(everyone)))
    assert (weights == 0).all()
    assert torch.equal(gone.logits, by_hand)


@pytest.mark.parametrize("kind", EXPERTS)
def test_rerouting_fills_the_slot_with_the_next_best_expert(kind: str) -> None:
    model = loaded(kind)
    _, logits, _, indices = routing(model, 2)
    for expert in range(model.card.n_experts):
        _, _, after, which = routing(model, 2, at(2, RerouteExperts((expert,))))
        touched = (indices == expert).any(-1)
        assert not (which == expert).any()
        assert torch.equal(which[~touched], indices[~touched])
        assert (after > 0).all()
        for row, pos in touched.nonzero().tolist():
            expected = by_hand(model, logits[row, pos], expert)
            assert sorted(which[row, pos].tolist()) == expected, (expert, row, pos)
            given = weights_by_hand(model, logits[row, pos], expert, which[row, pos])
            torch.testing.assert_close(after[row, pos], given, rtol=1e-5, atol=1e-7)


def weights_by_hand(
    model: Any, logits: torch.Tensor, gone: int, chosen: torch.Tensor
) -> torch.Tensor:
    """Weights of the chosen experts, in the order of their slots, from each family's definition."""
    config, family = model.module.config, model.card.family
    if family == "deepseek_v3":
        score = logits[chosen].sigmoid()
        return config.routed_scaling_factor * score / score.sum()
    if family in ("mixtral", "gpt_oss") or config.norm_topk_prob:
        return logits[chosen].softmax(-1)
    left = [e for e in range(len(logits)) if e != gone]
    return logits[chosen].exp() / logits[left].exp().sum()


def by_hand(model: Any, logits: torch.Tensor, gone: int) -> list[int]:
    """Who is chosen without expert ``gone``, in plain Python."""
    if model.card.family != "deepseek_v3":
        order = sorted(range(len(logits)), key=lambda e: -float(logits[e]))
        return sorted([e for e in order if e != gone][: model.card.top_k])
    config = model.module.config
    gate = model.module.model.layers[2].mlp.gate
    score = (logits.double().sigmoid() + gate.e_score_correction_bias.double()).tolist()
    size = len(score) // config.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(config.n_group)]
    best = [sum(sorted((score[e] for e in g if e != gone), reverse=True)[:2]) for g in groups]
    kept = sorted(range(config.n_group), key=lambda g: -best[g])[: config.topk_group]
    able = [e for g in kept for e in groups[g] if e != gone]
    return sorted(sorted(able, key=lambda e: -score[e])[: model.card.top_k])


def test_rerouted_deepseek_stays_within_its_groups() -> None:
    """Control: without the limit on groups some token would choose otherwise."""
    model = loaded("deepseek_v3")
    _, logits, _, indices = routing(model, 2)
    differs = 0
    for expert in range(8):
        _, _, _, which = routing(model, 2, at(2, RerouteExperts((expert,))))
        touched = (indices == expert).any(-1)
        groups = which[touched] // 2
        assert all(len(set(g)) <= 2 for g in groups.tolist())  # topk_group
        free = logits.index_fill(-1, torch.tensor([expert]), -torch.inf).topk(2, -1).indices
        differs += int((free.sort(-1).values != which.sort(-1).values)[touched].any(-1).sum())
    assert differs > 0


@pytest.mark.parametrize("kind", EXPERTS)
def test_a_second_reroute_does_not_bring_the_first_expert_back(kind: str) -> None:
    model = loaded(kind)
    _, _, _, indices = routing(model, 2)
    first = int(indices[0, 3, 0])
    _, _, _, second = routing(model, 2, at(2, RerouteExperts((first,))))
    other = int(second[0, 3, 0])
    both = at(2, RerouteExperts((first,))) + at(2, RerouteExperts((other,)))
    _, _, _, which = routing(model, 2, both)
    assert not {first, other} & set(which[0, 3].tolist())


@pytest.mark.parametrize("kind", EXPERTS)
def test_forcing_takes_the_smallest_slot_and_the_largest_weight(kind: str) -> None:
    model = loaded(kind)
    _, _, weights, indices = routing(model, 2)
    expert = chosen_somewhere(indices)
    out, _, after, which = routing(model, 2, at(2, ForceExperts((expert,))))
    had = (indices == expert).any(-1)
    assert (which == expert).any(-1).all()
    torch.testing.assert_close(after.sum(-1), weights.sum(-1), rtol=1e-6, atol=0)
    mine = torch.where(which == expert, after, 0).sum(-1)
    torch.testing.assert_close(mine, after.amax(-1), rtol=0, atol=0)
    smallest = weights.argmin(-1)
    replaced = which.gather(-1, smallest[..., None])[..., 0]
    assert (replaced == expert)[~had].all()
    assert torch.equal(which[had], indices[had])
    already = had & (torch.where(indices == expert, weights, 0).sum(-1) == weights.amax(-1))
    assert torch.equal(after[already], weights[already])
    clean = model.run(IDS).logits
    gap = (out.logits - clean)[already]  # the last layer: other tokens do not hear of it
    assert bool((gap.abs() < 1e-5).all())  # the experts' kernels sort tokens: other rounding
    assert float((out.logits - clean)[~had].abs().max()) > 1e-4
    for pair in ((0, 1), (2, 4), (3, 4)):  # as many as there are slots: all enter, alike
        _, _, both, who = routing(model, 2, at(2, ForceExperts(pair)))
        assert torch.equal(who.sort(-1).values, torch.tensor(pair).expand_as(who))
        torch.testing.assert_close(both, both.mean(-1, keepdim=True).expand_as(both))
        torch.testing.assert_close(both.sum(-1), weights.sum(-1))


@pytest.mark.parametrize("kind", EXPERTS)
def test_scaling_keeps_the_sum_and_factors_0_and_1_are_known(kind: str) -> None:
    model = loaded(kind)
    clean, _, weights, indices = routing(model, 2)
    expert = chosen_somewhere(indices)
    same = model.run(IDS, at(2, ScaleExperts((expert,), 1.0))).logits
    assert torch.equal(same, clean.logits)
    none = model.run(IDS, at(2, ScaleExperts((expert,), 0.0))).logits
    assert torch.equal(none, model.run(IDS, at(2, SuppressExperts((expert,)))).logits)
    _, _, double, _ = routing(model, 2, at(2, ScaleExperts((expert,), 2.0)))
    torch.testing.assert_close(double.sum(-1), weights.sum(-1), rtol=1e-6, atol=0)
    hit = indices == expert
    raw = torch.where(hit, 2 * weights, weights)
    expected = raw * weights.sum(-1, keepdim=True) / raw.sum(-1, keepdim=True)
    torch.testing.assert_close(double, expected, rtol=1e-6, atol=0)
    _, _, turned, _ = routing(model, 2, at(2, ScaleExperts((expert,), -1.0)))
    torch.testing.assert_close(turned, torch.where(hit, -weights, weights), rtol=1e-6, atol=0)
    _, _, loose, _ = routing(model, 2, at(2, ScaleExperts((expert,), 2.0, renormalise=False)))
    assert torch.equal(loose, raw)


@pytest.mark.parametrize("kind", EXPERTS)
def test_an_expert_that_nobody_chose_changes_no_bit(kind: str) -> None:
    model = loaded(kind)
    few = IDS[:1, :2]
    clean = model.run(few).logits
    for layer in (0, 2) if kind != "deepseek_v3" else (1, 2):
        expert = (unused(model, layer, few),)
        for op in (SuppressExperts(expert), RerouteExperts(expert), ScaleExperts(expert, 3.0)):
            assert torch.equal(model.run(few, at(layer, op)).logits, clean), op
        forced = model.run(few, at(layer, ForceExperts(expert))).logits
        assert not torch.equal(forced, clean)  # control: it could have


@pytest.mark.parametrize("kind", EXPERTS)
def test_tokens_before_the_first_one_routed_to_the_expert_do_not_change(kind: str) -> None:
    model = loaded(kind)
    layer = 1 if kind == "deepseek_v3" else 0
    clean, _, _, indices = routing(model, layer, ids=IDS[:1])
    first = {e: int((indices[0] == e).any(-1).int().argmax()) for e in indices.unique().tolist()}
    expert, start = max(first.items(), key=lambda item: item[1])
    assert start > 0
    out = model.run(IDS[:1], at(layer, SuppressExperts((expert,)))).logits
    gap = (out - clean.logits)[0].abs().amax(-1)
    assert float(gap[:start].max()) < 1e-5  # the experts' kernels sort tokens: other rounding
    assert float(gap[start]) > 1e-4


@pytest.mark.parametrize("op", ONE_OF_EACH)
@pytest.mark.parametrize("kind", EXPERTS)
def test_rows_positions_and_run_many_say_where(kind: str, op: Any) -> None:
    model = loaded(kind)
    _, _, weights, indices = routing(model, 2)
    expert = int(indices[0, 3, 1])
    done = op((expert,), 0.25) if op is ScaleExperts else op((expert,))
    _, _, after, which = routing(model, 2, at(2, done, rows=[0], positions=[3]))
    same = torch.ones(2, 10, dtype=torch.bool)
    same[0, 3] = False
    assert torch.equal(after[same], weights[same])
    assert torch.equal(which[same], indices[same])
    assert not torch.equal(after[0, 3], weights[0, 3])
    plans = [Plan(), at(2, done, positions=[-1]), at(2, done)]
    many = model.run_many(IDS[:1], plans).logits
    for row, plan in zip(many, plans, strict=True):
        torch.testing.assert_close(row, model.run(IDS[:1], plan).logits[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("op", ONE_OF_EACH)
@pytest.mark.parametrize("kind", EXPERTS)
def test_decoding_under_a_plan_equals_full_forwards_under_it(kind: str, op: Any) -> None:
    model = loaded(kind)
    expert = chosen_somewhere(routing(model, 2)[3])
    done = op((expert,), 0.1) if op is ScaleExperts else op((expert,))
    plan = at(2, done) + at(1 if kind != "qwen2_moe" else 0, done)
    rows, some = IDS[:, :6], (2, 5, 7)  # the last is a token that is generated
    placed = plan + at(2, Scale(0.2), positions=some) + at(2, done, positions=some)
    for each in (plan, placed):
        _same_as_full_forwards(model, rows, each)


def _same_as_full_forwards(model: Any, rows: torch.Tensor, plan: Plan) -> None:
    fast = model.generate(rows, plan, 5, stop_ids=[])
    for row, new in zip(rows, fast, strict=True):
        text = row.tolist()
        for token in new:
            last = model.run([text], _there(plan, len(text)), logits="last").logits[0, -1]
            best = last.topk(2).values
            assert token == int(last.argmax()) or float(best[0] - best[1]) < 1e-4
            text.append(token)


def _there(plan: Plan, n: int) -> Plan:
    """The plan without positions that the text has not yet."""
    edits = [
        e if e.positions is None else replace(e, positions=[p for p in e.positions if p < n])
        for e in plan.edits
    ]
    return Plan(tuple(edits))


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_nnsight_gives_the_same_numbers(kind: str) -> None:
    native, traced = loaded(kind), loaded(kind, "nnsight")
    expert = chosen_somewhere(routing(native, 2)[3])
    for op in (SuppressExperts, RerouteExperts, ForceExperts):
        plan = at(2, op((expert,)))
        a, _, w, i = routing(native, 2, plan)
        b, _, v, j = routing(traced, 2, plan)
        assert torch.equal(i, j)
        torch.testing.assert_close(w, v, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["olmoe", "deepseek_v3"])
def test_half_precision_and_gradients_go_through(kind: str) -> None:
    model = load_model(tiny(kind).bfloat16(), certify=False)
    clean, _, weights, indices = routing(model, 2)
    same = model.run(IDS, at(2, ScaleExperts((0,), 1.0))).logits
    assert torch.equal(same, clean.logits)
    expert = chosen_somewhere(indices)
    _, _, after, which = routing(model, 2, at(2, SuppressExperts((expert,))))
    assert after.dtype == weights.dtype
    assert torch.equal(which, indices)
    model = loaded(kind)
    site = "blocks.1.mlp.in"
    plan = at(2, SuppressExperts((chosen_somewhere(routing(model, 2)[3]),)))
    out = model.run(IDS, plan, site, grad=True)
    (grad,) = torch.autograd.grad(out.logits[:, -1, 5].sum(), out.acts[site])
    assert bool(torch.isfinite(grad).all())
    assert float(grad.abs().max()) > 0


def test_other_edits_of_weights_keep_their_order_beside_these() -> None:
    model = loaded("mixtral")
    _, _, weights, indices = routing(model, 2)
    expert = chosen_somewhere(indices)
    op, half = SuppressExperts((expert,)), Scale(0.5)
    _, _, a, _ = routing(model, 2, at(2, op) + at(2, half))
    _, _, b, _ = routing(model, 2, at(2, half) + at(2, op))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a.sum(-1), 0.5 * weights.sum(-1))
    plan = at(2, op) + at(2, Add(1.0), dims=[0])
    _, _, c, _ = routing(model, 2, plan)
    torch.testing.assert_close(c[..., 0], a[..., 0] * 2 + 1.0)


@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_plans_of_experts_are_data(op: Any) -> None:
    made = op([3, 1, 1])
    assert made.experts == (1, 3)
    plan = at(1, made, rows=[0], positions=[-1])
    back = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan
    assert back.fingerprint() == plan.fingerprint()
    assert hash(back) == hash(plan)
    assert plan.reproducible
    assert "(1, 3)" in str(plan)
    assert at(1, op((3,))).fingerprint() != at(1, op((1,))).fingerprint()


@pytest.mark.illtyped
@pytest.mark.parametrize("wrong", [6, "6", (), (1.5,), (-1,), (True,), None])
def test_what_names_no_experts_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="SuppressExperts needs the numbers of experts"):
        SuppressExperts(wrong)


def test_operations_on_routing_stand_where_routers_are() -> None:
    moe, dense = loaded("deepseek_v3"), load_model(tiny("llama"), certify=False)
    with pytest.raises(ConfigError, match=r"names expert 8; this model has experts 0\.\.7"):
        moe.run(IDS, at(1, SuppressExperts((8,))))
    with pytest.raises(ConfigError, match="forces 3 experts, but a token has 2 slots"):
        moe.run_many(IDS, [at(1, ForceExperts((0, 1, 2)))] * 2)
    with pytest.raises(UnknownSiteError, match=r"those that have it are \[1, 2\]"):
        moe.run(IDS, at(0, SuppressExperts((0,))))
    with pytest.raises(UnknownSiteError, match="A llama model does not have it"):
        dense.generate(IDS, at(0, SuppressExperts((0,))))
    with pytest.raises(ConfigError, match=r"stands at blocks\.<L>\.router\.weights"):
        edit("blocks.0.router.indices", SuppressExperts((0,)))
    with pytest.raises(ConfigError, match="takes no dims"):
        at(0, SuppressExperts((0,)), dims=[0])
    with pytest.raises(ConfigError, match="finite factor"):
        ScaleExperts((0,), float("nan"))
    with pytest.raises(ConfigError, match="does not hand over together"):
        SuppressExperts((0,)).apply(IDS)


def test_dictionaries_and_operations_on_routing_go_together() -> None:
    from tests.splice_helpers import random_sae

    model = loaded("qwen3_moe")
    spliced = model.with_saes([random_sae("blocks.1.resid_post")])
    expert = chosen_somewhere(routing(model, 2)[3])
    plan = at(2, SuppressExperts((expert,)))
    kept = spliced.run(IDS, plan).logits
    torch.testing.assert_close(kept, model.run(IDS, plan).logits, rtol=0, atol=1e-5)
    both = plan + edit("blocks.1.resid_post.sae.acts", Zero())
    assert float((spliced.run(IDS, both).logits - kept).abs().max()) > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_transformer_lens_refuses_with_the_way_out() -> None:
    from lensbench.interventions import experts
    from lensbench.models.transformer_lens import to_transformer_lens

    lens = to_transformer_lens(loaded("mixtral"))
    with pytest.raises(UnknownSiteError, match="TransformerLens hands out no routing"):
        lens.run(IDS, at(2, SuppressExperts((0,))))
    with pytest.raises(ConfigError, match="does not reach the routers of"):
        experts.routing(lens, IDS)
