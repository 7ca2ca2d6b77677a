"""What every model behind the waist must do, whatever its architecture."""

import pytest
import torch

from lensbench.errors import ConfigError
from tests.helpers import FAMILY_NAMES, random_ids, tiny
from tests.zoo import DECODERS, ENCODERS, EXPERTS, RECURRENT, WITHOUT_INTERFACE

IDS = random_ids(2, 8, seed=1)
ONE_STACK = [
    *FAMILY_NAMES,
    *EXPERTS,
    *DECODERS,
    *WITHOUT_INTERFACE,
    *RECURRENT,
    *ENCODERS,
]


@pytest.fixture(scope="module", params=ONE_STACK)
def model(request):
    import lensbench

    return lensbench.load_model(tiny(request.param, seed=3), certify=False)


def test_certificate_passes(model) -> None:
    certificate = model.certify(fresh=True)
    assert certificate.passed, certificate.to_frame().to_string()
    # An encoder has no causality (one check, not two) and no cache; a recurrent model no heads.
    arch = model.layout.architecture
    assert len(certificate.checks) == 13 - 2 * (not arch.causal) - arch.recurrent


def test_an_empty_plan_changes_nothing(model) -> None:
    from lensbench import Plan

    options = {"use_cache": False} if model.layout.architecture.causal else {}
    with torch.no_grad():
        own = model.module(input_ids=IDS, **options).logits
    assert torch.equal(model.run(IDS, Plan()).logits, own)


def test_writing_what_is_there_changes_nothing_and_writing_more_does(model) -> None:
    from lensbench.plan import Plan, Replace, Scale, edit

    clean = model.run(IDS, capture=model.sites())
    for site in model.sites():
        value = clean.acts[site]
        if site.name != "logits" and site.spec.writable:
            same = model.run(IDS, edit(site, Replace(value))).logits
            torch.testing.assert_close(same, clean.logits, rtol=0, atol=2e-3, msg=str(site))
    assert Plan() == Plan.from_json(Plan().to_json())
    moved = model.run(IDS, edit("blocks.1.resid_post", Scale(0.5))).logits
    assert float((moved - clean.logits).abs().max()) > 1e-2


def test_a_patch_of_all_of_a_layer_reproduces_the_other_run(model) -> None:
    from lensbench.plan import Replace, edit

    other = random_ids(2, 8, seed=9)
    source = model.run(other, capture=["blocks.1.resid_post"])
    patched = model.run(
        IDS, edit("blocks.1.resid_post", Replace(source.acts["blocks.1.resid_post"]))
    )
    torch.testing.assert_close(patched.logits, source.logits, rtol=0, atol=1e-4)
    assert float((model.run(IDS).logits - source.logits).abs().max()) > 1e-2  # control: unpatched


def fits(model, plan) -> bool:
    """Has the model every site of the plan?"""
    return all(e.site in model.sites() for e in plan.edits)


def branch(model) -> str:
    """The last thing a block adds to its residual stream."""
    return "ssm_out" if model.layout.architecture.recurrent else "mlp_out"


def test_a_sweep_over_layers_and_positions_equals_separate_runs(model) -> None:
    """Enough plans per prompt that blocks and tokens before an edit are not run again."""
    from lensbench.plan import Add, Set, edit

    width = model.card.d_model
    step = torch.linspace(-1, 1, width)
    plans = [
        edit(f"blocks.{layer}.{name}", Set(step * (p + 1)) if p % 2 else Add(step), positions=[p])
        for layer in range(model.card.n_layers)
        for name in ("resid_pre", "mlp_out")
        for p in (0, 3, 5, -1)
    ]
    if not model.layout.architecture.recurrent:
        plans += [edit("blocks.1.attn.v", Add(1.0), positions=[p], heads=[0]) for p in (2, 6)]
        plans += [edit("blocks.1.attn.k", Add(1.0), positions=[p]) for p in (2, 6)]
    known = set(model.sites())
    plans = [plan for plan in plans if plan.edits[0].site in known]
    many = model.run_many(IDS[:1], plans, logits="last", batch_size=7)
    alone = [model.run(IDS[:1], plan, logits="last") for plan in plans]
    expected = torch.cat([out.logits for out in alone])
    torch.testing.assert_close(many.logits, expected, rtol=0, atol=2e-4)
    clean = model.run(IDS[:1], logits="last").logits
    assert float((expected - clean).abs().amax((1, 2)).median()) > 1e-2
    both = torch.cat([IDS] * len(plans))
    order = [plan for plan in plans for _ in range(2)]
    pairs = model.run_many(both, order, logits="last", batch_size=7).logits
    other = model.run_many(IDS[1:], plans, logits="last").logits
    torch.testing.assert_close(pairs[::2], many.logits, rtol=0, atol=2e-4)
    torch.testing.assert_close(pairs[1::2], other, rtol=0, atol=2e-4)
    kept = model.run_many(both, order, "blocks.0.resid_post", logits="last", batch_size=7)
    torch.testing.assert_close(kept.logits, pairs, rtol=0, atol=2e-4)
    early = model.run(IDS, capture="blocks.0.resid_post").acts["blocks.0.resid_post"]
    torch.testing.assert_close(kept.acts["blocks.0.resid_post"][-2:], early, rtol=0, atol=1e-4)


def test_run_many_equals_separate_runs_and_starts_late(model) -> None:
    from lensbench.plan import Add, Scale, Zero, edit, skip_layers

    plans = [
        edit("blocks.2.resid_pre", Add(torch.randn(32)), positions=[-1]),
        edit("blocks.2.mlp_out", Zero(), positions=[0, 3]),
        edit("blocks.2.attn.z", Scale(2.0), heads=[1]),
        edit("blocks.1.attn.pattern", Scale(0.5), heads=[2], positions=[4]),
        skip_layers([1]) + edit("blocks.2.attn_out", Zero()),
        edit("logits", Add(1.0), dims=[5]),
        edit("blocks.2.mlp.post", Scale(3.0), dims=[1, 4]),
        edit("blocks.2.experts.out", Zero(), dims=[3], positions=[2]),
        edit("blocks.1.router.weights", Scale(0.5), positions=[-1]),
        edit("blocks.2.ssm.params", Scale(1.2), positions=[5]),
        edit("blocks.1.ssm_out", Zero(), positions=[1]),
    ]
    plans = [p for p in plans if fits(model, p)]
    assert len(plans) > 3
    one = IDS[:1]
    many = model.run_many(one, plans, ["blocks.0.resid_post", "blocks.2.resid_post"])
    for i, plan in enumerate(plans):
        alone = model.run(one, plan, ["blocks.0.resid_post", "blocks.2.resid_post"])
        torch.testing.assert_close(many.logits[i], alone.logits[0], rtol=0, atol=2e-4)
        for name in alone.acts:
            torch.testing.assert_close(many.acts[name][i], alone.acts[name][0], rtol=0, atol=2e-4)
    assert many.layers_run < len(plans) * 3
    out = branch(model)
    late = model.run_many(one, [edit(f"blocks.2.{out}", Zero(), positions=[p]) for p in range(8)])
    assert late.layers_run == 2 + 8  # two blocks once, the last one eight times


def test_run_many_reads_the_last_token_alone_as_from_whole_runs(model) -> None:
    """Of the last block only the last token's MLP is run, unless something else is asked for."""
    from lensbench.plan import Scale, Zero, edit, skip_layers

    out = branch(model)
    plans = [
        edit("blocks.0.resid_post", Scale(0.5), positions=[3]),
        edit(f"blocks.1.{out}", Zero(), positions=[-1]),
        skip_layers([1]),
    ]
    late = [
        edit(f"blocks.2.{out}", Zero(), positions=[2, -1]),
        edit("blocks.2.mlp.post", Scale(3.0), positions=[-1]),
        edit("blocks.2.resid_post", Scale(2.0), positions=[1, -1]),
        edit("ln_final", Scale(2.0), positions=[-1]),
    ]
    for part in (plans, plans + [p for p in late if fits(model, p)]):
        many = model.run_many(IDS[:1], part, logits="last").logits
        alone = torch.cat([model.run(IDS[:1], plan, logits="last").logits for plan in part])
        torch.testing.assert_close(many, alone, rtol=0, atol=2e-4)
    whole = model.run_many(IDS[:1], plans, "blocks.2.resid_post", logits="last").acts
    each = [model.run(IDS[:1], plan, "blocks.2.resid_post").acts for plan in plans]
    expected = torch.cat([acts["blocks.2.resid_post"] for acts in each])
    torch.testing.assert_close(whole["blocks.2.resid_post"], expected, rtol=0, atol=2e-4)


def test_generate_under_a_plan_equals_full_forwards(model) -> None:
    from lensbench.plan import Plan, Scale, Zero, edit, skip_layers

    plans = [
        Plan(),
        edit("blocks.1.resid_post", Scale(0.7)),
        edit("blocks.1.attn.k", Scale(1.7), positions=[2], heads=[0]),
        edit(f"blocks.0.{branch(model)}", Zero(), positions=[-1]),
        edit("blocks.1.experts.out", Scale(0.5), dims=[0, 1, 2]),
        edit("blocks.1.ssm.in", Scale(0.5), dims=[0, 1, 2]),
        skip_layers([0]),
    ]
    if not model.layout.architecture.causal:
        with pytest.raises(ConfigError, match="is an encoder and generates nothing"):
            model.generate(IDS[:1])
        return
    for plan in (p for p in plans if fits(model, p)):
        made = model.generate(IDS[:1], plan, 6, stop_ids=[])[0]
        ids = IDS[:1]
        for token in made:
            # Negative positions mean the prompt's; here they are written out.
            fixed = Plan.from_json(plan.to_json())
            if fixed.edits and fixed.edits[0].positions == (-1,):
                fixed = edit(f"blocks.0.{branch(model)}", Zero(), positions=[7])
            logits = model.run(ids, fixed, logits="last").logits[0, -1]
            top = logits.max()
            assert float(top - logits[token]) < 1e-4 * max(1.0, float(top.abs()))
            ids = torch.cat((ids, torch.tensor([[token]])), 1)


def test_left_padding_moves_nothing_and_positions_ignore_it(model) -> None:
    from lensbench import Tokens
    from lensbench.plan import Zero, edit

    row, longer = IDS[:1], random_ids(1, 11, seed=2)
    padded = Tokens(
        torch.cat((torch.cat((torch.zeros(1, 3, dtype=torch.long), row), 1), longer)),
        torch.tensor([[False] * 3 + [True] * 8, [True] * 11]),
    )
    plan = edit(f"blocks.1.{branch(model)}", Zero(), positions=[2, -1])
    ours, alone = model.run(padded, plan), model.run(row, plan)
    torch.testing.assert_close(ours.logits[:1, 3:], alone.logits, rtol=0, atol=2e-4)
    torch.testing.assert_close(
        model.run(padded, plan, logits="last").logits[:1], alone.logits[:, -1:], rtol=0, atol=2e-4
    )
    unedited = model.run(padded).logits[:1, 3:]
    assert float((unedited - alone.logits).abs().max()) > 1e-3  # control: the plan does something


def test_gradients_reach_captured_activations(model) -> None:
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    inner = "ssm.post" if model.layout.architecture.recurrent else "attn.z"
    out = model.run(IDS, capture=["blocks.1.resid_post", f"blocks.2.{inner}"], grad=True)
    grads = torch.autograd.grad(out.logits[:, -1, 7].sum(), list(out.acts.values()))
    assert all(float(g.abs().max()) > 0 for g in grads)
    step = 1e-3
    from lensbench.plan import Add, edit

    base = out.logits[:, -1, 7].sum().detach()
    direction = torch.randn(32)
    up = (
        model.run(IDS, edit("blocks.1.resid_post", Add(step * direction), positions=[4]))
        .logits[:, -1, 7]
        .sum()
    )
    predicted = step * (grads[0][:, 4] @ direction).sum()
    # A first-order estimate: agreement to 10 % plus fp32 rounding of the difference.
    assert abs(float(up - base - predicted)) < 0.1 * abs(float(predicted)) + 2e-4


def test_skips_and_stops_really_do_not_run(model) -> None:
    from lensbench import Plan
    from lensbench.plan import skip_layers

    calls = []
    norm = model.module.get_submodule(model.layout.family.blocks)[1].get_submodule(
        model.layout.family.ln1
    )
    head = model.module.get_output_embeddings()
    hooks = [
        norm.register_forward_hook(lambda *_: calls.append("block 1")),
        head.register_forward_hook(lambda *_: calls.append("head")),
    ]
    try:
        skipped = model.run(IDS, skip_layers([1]))
        assert calls == ["head"]
        assert skipped.layers_run == 2 * 2
        calls.clear()
        early = model.run(IDS, Plan(stop=1), ["blocks.0.resid_post"])
        assert calls == ["head"]
        torch.testing.assert_close(
            model.unembed(early.acts["blocks.0.resid_post"]), early.logits, rtol=0, atol=0
        )
        calls.clear()
        assert model.run(IDS, capture=["blocks.0.resid_post"], logits="none").logits is None
        assert calls == []
        model.run(IDS)
        assert calls == ["block 1", "head"]  # control: both run otherwise
    finally:
        for hook in hooks:
            hook.remove()


def test_run_layers_composes(model) -> None:
    acts = model.run(IDS, capture=["blocks.1.resid_pre", "blocks.2.resid_post"]).acts
    out, _ = model.run_layers(acts["blocks.1.resid_pre"], 1, 3)
    torch.testing.assert_close(out, acts["blocks.2.resid_post"], rtol=0, atol=0)
    half, _ = model.run_layers(acts["blocks.1.resid_pre"], 1, 2)
    assert float((half - out).abs().max()) > 1e-2  # control: fewer layers, another state


def test_run_layers_at_given_positions_equals_the_module_at_those_positions(model) -> None:
    from lensbench.models.families import submodule
    from lensbench.models.session import first

    positions = torch.tensor([[0, 1, 2, 5, 6, 7, 9, 11]]).expand(2, -1)
    blocks = list(submodule(model.module, model.layout.family.blocks).children())
    seen: list[torch.Tensor] = []
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0])),
        blocks[-1].register_forward_hook(lambda *given: seen.append(first(given[2]))),
    ]
    with torch.no_grad():
        mask = torch.ones_like(IDS)
        told = {"position_ids": positions} if model.layout.kind not in ("bloom", "mamba") else {}
        if model.layout.architecture.causal:
            told["use_cache"] = False  # a cache lays keys out anew: other kernels, other rounding
        model.module.base_model(input_ids=IDS, attention_mask=mask, **told)
    for hook in hooks:
        hook.remove()
    h, expected = seen
    config = model.module.config
    if model.layout.kind in ("bloom", "mamba") or getattr(config, "alibi", False):
        with pytest.raises(ConfigError, match="counts tokens itself"):
            model.run_layers(h, 0, model.n_layers, positions=positions)
        return
    out, _ = model.run_layers(h, 0, model.n_layers, positions=positions)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    plain, _ = model.run_layers(h, 0, model.n_layers)
    deaf = ("gpt2", "opt", "gpt_neo", "bloom", "mamba", "bert", "roberta")
    if model.layout.kind not in deaf and not getattr(model.module.config, "alibi", False):
        # control: rotary blocks hear of positions
        assert float((plain - expected).abs().max()) > 1e-3


def test_run_layers_and_unembed_give_gradients_when_asked(model) -> None:
    h = model.run(IDS, capture=["blocks.1.resid_pre"], logits="none").acts["blocks.1.resid_pre"]
    leaf = h.double().float().requires_grad_()
    out, _ = model.run_layers(leaf, 1, 3, grad=True)
    loss = model.unembed(out, grad=True)[..., 5].sum()
    (got,) = torch.autograd.grad(loss, leaf)
    step = torch.randn(h.shape, generator=torch.Generator().manual_seed(0))
    step = step / step.norm()

    def at(t: float) -> torch.Tensor:
        return model.unembed(model.run_layers(h + t * step, 1, 3)[0])[..., 5].double().sum()

    expected = (at(1e-2) - at(-1e-2)) / 2e-2
    torch.testing.assert_close((got * step).sum().double(), expected, rtol=2e-2, atol=2e-2)
    assert not model.unembed(model.run_layers(leaf, 1, 3)[0]).requires_grad


def test_run_layers_refuses_shapes_that_do_not_fit(model) -> None:
    h = torch.zeros(2, 8, model.card.d_model)
    with pytest.raises(ConfigError, match=r"positions has shape \[1, 8\], but h has \[2, 8\]"):
        model.run_layers(h, 0, 1, positions=torch.ones(1, 8, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"mask has shape \[1, 8\], but h has \[2, 8\]"):
        model.run_layers(h, 0, 1, mask=torch.ones(1, 8, dtype=torch.bool))


def test_without_the_attention_interface_z_remains_and_the_rest_is_refused(
    model, monkeypatch
) -> None:
    import copy
    from dataclasses import replace

    import lensbench
    from lensbench.errors import UnknownSiteError
    from lensbench.models.catalogue import ARCHITECTURES
    from lensbench.plan import Zero, edit

    if model.layout.architecture.recurrent:
        with pytest.raises(UnknownSiteError, match="A mamba model does not have it"):
            model.run(IDS, capture=["blocks.1.attn.z"])
        return
    module = copy.deepcopy(model.module)
    module.set_attn_implementation("eager")
    kind = module.config.model_type
    monkeypatch.setitem(ARCHITECTURES, kind, replace(ARCHITECTURES[kind], interface=False))
    plain = lensbench.load_model(module, certify=False)
    assert plain.certify(fresh=True).passed
    ours = model.run(IDS, capture=["blocks.1.attn.z"], logits="none").acts["blocks.1.attn.z"]
    theirs = plain.run(IDS, capture=["blocks.1.attn.z"], logits="none").acts["blocks.1.attn.z"]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-4)
    plan = edit("blocks.1.attn.z", Zero(), heads=[2], positions=[3])
    torch.testing.assert_close(
        plain.run(IDS, plan).logits, model.run(IDS, plan).logits, rtol=0, atol=2e-3
    )
    assert float((plain.run(IDS, plan).logits - plain.run(IDS).logits).abs().max()) > 5e-3
    with pytest.raises(UnknownSiteError, match=r"only attn\.z of it can be reached"):
        plain.run(IDS, capture=["blocks.1.attn.pattern"])


def test_a_written_scale_divides_the_normed_state(model) -> None:
    from lensbench.plan import Scale, edit

    if model.layout.family.final_norm is None:
        assert "ln_final" not in map(str, model.sites())
        return
    norm = model.module.get_submodule(model.layout.family.final_norm)
    bias = getattr(norm, "bias", None)
    shift = torch.zeros(32) if bias is None else bias.detach()
    clean = model.run(IDS, capture=["ln_final"]).acts["ln_final"]
    edited = model.run(IDS, edit("ln_final.scale", Scale(2.0)), ["ln_final"]).acts["ln_final"]
    torch.testing.assert_close(edited, (clean - shift) / 2 + shift, rtol=0, atol=1e-5)
    assert float((edited - clean).abs().max()) > 0.1  # control: it does something
