"""Experts, cross-attention, encoders and state-space layers against the modules themselves.

The other side is transformers: its hidden states, its eager attention, and formulas written out
from the weights. Every weight and norm is random. fp32; tolerances are about 1e-5 of the values.
"""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import lensbench
from lensbench.sites import Site
from lensbench.tokens import Tokens
from tests.helpers import random_ids, tiny
from tests.zoo import DECODERS, ENCODERS, EXPERTS, RECURRENT, SEQ2SEQ, ZOO

IDS = random_ids(2, 7, seed=4)
DECODER_IDS = random_ids(2, 5, seed=6)
ONE_STACK = [kind for kind in ZOO if kind not in SEQ2SEQ]


def loaded(kind: str) -> tuple[Any, Any]:
    """The same weights twice: an untouched module, and a model around a copy."""
    module = tiny(kind, seed=2)
    return module, lensbench.load_model(copy.deepcopy(module), certify=False)


def close(a: torch.Tensor, b: torch.Tensor, name: str = "", rel: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=rel * float(b.abs().max()), msg=name)


@pytest.mark.parametrize("kind", ONE_STACK)
def test_the_residual_stream_is_transformers_hidden_states(kind: str) -> None:
    module, model = loaded(kind)
    with torch.no_grad():
        hidden = module(input_ids=IDS, output_hidden_states=True).hidden_states
    if kind in RECURRENT:  # transformers' list begins after the first block here
        hidden = (module.get_input_embeddings()(IDS).detach(), *hidden)
    names = [f"blocks.{i}.resid_pre" for i in range(3)] + ["blocks.1.resid_post"]
    acts = model.run(IDS, capture=names).acts
    for layer in range(3):
        torch.testing.assert_close(acts[names[layer]], hidden[layer], rtol=0, atol=0)
    torch.testing.assert_close(acts["blocks.1.resid_post"], hidden[2], rtol=0, atol=0)


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_both_stacks_hold_transformers_hidden_states(kind: str) -> None:
    module, model = loaded(kind)
    fed = {"input_ids": IDS, "decoder_input_ids": DECODER_IDS, "use_cache": False}
    tokens = Tokens(IDS, None, DECODER_IDS)
    with torch.no_grad():
        plain = module(**fed).logits
        module.set_attn_implementation("eager")  # patterns are captured: ours is eager then, too
        out = module(**fed, output_hidden_states=True)
    assert torch.equal(model.run(tokens).logits, plain)
    found = model.run(tokens, capture=model.sites())
    torch.testing.assert_close(found.logits, out.logits, rtol=0, atol=2e-5)
    for stack, hidden in (
        ("encoder", out.encoder_hidden_states),
        ("decoder", out.decoder_hidden_states),
    ):
        for layer in range(model.layout.shapes[stack].n_layers):
            close(found.acts[f"{stack}.blocks.{layer}.resid_pre"], hidden[layer])
    assert model.card.n_layers == 3
    assert model.layout.shapes["encoder"].n_layers == 2


@pytest.mark.parametrize("kind", [*EXPERTS, *DECODERS, *ENCODERS, *SEQ2SEQ])
def test_patterns_are_those_of_eager_attention(kind: str) -> None:
    module = tiny(kind, seed=2)
    module.set_attn_implementation("eager")
    ours = lensbench.load_model(copy.deepcopy(module), certify=False)
    fed: dict[str, Any] = {"input_ids": IDS, "output_attentions": True}
    tokens = Tokens(IDS)
    if kind in SEQ2SEQ:
        fed |= {"decoder_input_ids": DECODER_IDS, "use_cache": False}  # a cache rounds otherwise
        tokens = Tokens(IDS, None, DECODER_IDS)
    with torch.no_grad():
        out = module(**fed)
    theirs: dict[tuple[str, str], Any] = {("", "attn"): out.get("attentions")}
    if kind in SEQ2SEQ:
        theirs = {
            ("encoder", "attn"): out.encoder_attentions,
            ("decoder", "attn"): out.decoder_attentions,
            ("decoder", "xattn"): out.cross_attentions,
        }
    for (stack, part), patterns in theirs.items():
        for layer, pattern in enumerate(patterns):
            site = Site(f"{part}.pattern", layer, stack)
            found = ours.run(tokens, capture=[site]).acts[site]
            torch.testing.assert_close(found, pattern, rtol=0, atol=1e-6, msg=str(site))
            assert found.shape[1] == ours.layout.shapes[stack].n_heads


def test_with_sinks_the_rows_of_the_pattern_sum_to_less_than_one() -> None:
    _, model = loaded("gpt_oss")
    rows = model.run(IDS, capture=["blocks.1.attn.pattern"]).acts["blocks.1.attn.pattern"].sum(-1)
    assert float(rows.mean()) < 0.95
    assert float(rows.max()) <= 1 + 1e-6
    _, other = loaded("mixtral")  # control: no sinks
    rows = other.run(IDS, capture=["blocks.1.attn.pattern"]).acts["blocks.1.attn.pattern"].sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_heads_of_queries_and_of_values_have_their_own_widths_in_latent_attention() -> None:
    _, model = loaded("deepseek_v3")
    acts = model.run(IDS, capture=["blocks.0.attn.q", "blocks.0.attn.v", "blocks.0.attn.z"]).acts
    assert acts["blocks.0.attn.q"].shape[2:] == (4, 24)  # 16 without and 8 with rotation
    assert acts["blocks.0.attn.v"].shape[2:] == acts["blocks.0.attn.z"].shape[2:] == (4, 12)
    assert [model.width(f"blocks.0.attn.{n}") for n in "qvz"] == [24, 12, 12]


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_are_the_weights_applied_by_hand(kind: str) -> None:
    """experts.out of a slot is its expert's own MLP; the weighted sum is what the MLP adds."""
    module, model = loaded(kind)
    layer = 2
    names = [f"blocks.{layer}.{n}" for n in ("router.weights", "router.indices", "experts.out")]
    mlp = f"blocks.{layer}.mlp_out"
    shared = f"blocks.{layer}.experts.shared_out"
    has_shared = Site.parse(shared) in model.sites()
    acts = model.run(IDS, capture=[*names, mlp, *([shared] if has_shared else [])]).acts
    weights, indices, outs = (acts[n] for n in names)
    x = _input_of(module, layer)
    experts = module.get_submodule(model.layout.family.blocks)[layer].mlp.experts
    for slot in range(indices.shape[-1]):
        by_hand = _expert(kind, experts, x, indices[..., slot])
        close(outs[..., slot, :], by_hand, f"slot {slot}")
    routed = (outs * weights[..., None]).sum(2)
    if not has_shared:
        close(routed, acts[mlp], rel=1e-4)
        return
    gate = 1.0
    if kind == "qwen2_moe":
        block = module.get_submodule(model.layout.family.blocks)[layer].mlp
        gate = torch.sigmoid(block.shared_expert_gate(x))
    close(routed + gate * acts[shared], acts[mlp], rel=1e-4)
    assert float((routed - acts[mlp]).abs().max()) > 1e-2  # control: without the shared part


def _input_of(module: Any, layer: int) -> torch.Tensor:
    """What the MLP of a block is given, by a plain hook on the untouched module."""
    seen: list[torch.Tensor] = []
    hook = module.model.layers[layer].mlp.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    with torch.no_grad():
        module(input_ids=IDS)
    hook.remove()
    return seen[0]


def _expert(kind: str, experts: Any, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        if kind == "gpt_oss":  # transposed, biased, gate and up interleaved, clamped, its own GLU
            both = torch.einsum("bpd,bpdf->bpf", x, experts.gate_up_proj[indices])
            both = both + experts.gate_up_proj_bias[indices]
            gate, up = both[..., ::2].clamp(max=7.0), both[..., 1::2].clamp(-7.0, 7.0)
            inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
            out = torch.einsum("bpf,bpfd->bpd", inner, experts.down_proj[indices])
            return out + experts.down_proj_bias[indices]
        gate, up = torch.einsum("bpd,bpfd->bpf", x, experts.gate_up_proj[indices]).chunk(2, -1)
        return torch.einsum("bpf,bpdf->bpd", F.silu(gate) * up, experts.down_proj[indices])


@pytest.mark.parametrize("kind", EXPERTS)
def test_taking_an_expert_away_takes_its_weighted_output_away(kind: str) -> None:
    """Weight 0 in a slot, and a zeroed output there, are one intervention."""
    from lensbench.plan import Zero, edit

    _, model = loaded(kind)
    at = "blocks.2."
    weights = model.run(IDS, edit(at + "router.weights", Zero(), dims=[1]), [at + "mlp_out"])
    clean = model.run(IDS, capture=[at + "experts.out", at + "router.weights", at + "mlp_out"])
    gone = clean.acts[at + "experts.out"][:, :, 1] * clean.acts[at + "router.weights"][..., 1:2]
    close(clean.acts[at + "mlp_out"] - weights.acts[at + "mlp_out"], gone, rel=2e-4)
    assert float((weights.logits - clean.logits).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", EXPERTS)
def test_forcing_an_expert_gives_what_that_expert_gives(kind: str) -> None:
    from lensbench.errors import ConfigError
    from lensbench.plan import Set, edit

    module, model = loaded(kind)
    plan = edit("blocks.2.router.indices", Set(3), positions=[4], dims=[0])
    acts = model.run(IDS, plan, ["blocks.2.router.indices", "blocks.2.experts.out"]).acts
    assert acts["blocks.2.router.indices"][:, 4, 0].tolist() == [3, 3]
    x = _input_of(module, 2)
    experts = module.get_submodule(model.layout.family.blocks)[2].mlp.experts
    third = _expert(kind, experts, x[:, 4:5], torch.full((2, 1), 3))[:, 0]
    close(acts["blocks.2.experts.out"][:, 4, 0], third)
    with pytest.raises(ConfigError, match="names expert 99"):
        model.run(IDS, edit("blocks.2.router.indices", Set(99)))
    with pytest.raises(ConfigError, match=r"router\.logits.*can be read but not written"):
        edit("blocks.2.router.logits", Set(0.0))


@pytest.mark.parametrize("kind", EXPERTS)
def test_router_logits_are_read_where_top_k_reads_them(kind: str) -> None:
    module, model = loaded(kind)
    acts = model.run(IDS, capture=["blocks.2.router.logits", "blocks.2.router.indices"]).acts
    logits, indices = acts.values()
    mlp = module.model.layers[2].mlp
    router = mlp.router if kind == "gpt_oss" else mlp.gate
    with torch.no_grad():
        by_hand = F.linear(_input_of(module, 2), router.weight, getattr(router, "bias", None))
    close(logits, by_hand)
    if kind != "deepseek_v3":  # which chooses groups first
        top = logits.topk(indices.shape[-1], -1).indices
        assert torch.equal(top.sort(-1).values, indices.sort(-1).values)


def test_dense_layers_among_experts_have_an_mlp_and_no_router() -> None:
    from lensbench.errors import UnknownSiteError

    for kind, dense in (("deepseek_v3", 0), ("qwen2_moe", 1)):
        _, model = loaded(kind)
        assert Site("mlp.post", dense) in model.sites()
        others = [i for i in range(3) if i != dense]
        with pytest.raises(UnknownSiteError, match=rf"those that have it are \[{others[0]}, "):
            model.run(IDS, capture=[f"blocks.{dense}.router.weights"])
        assert Site("mlp.post", others[0]) not in model.sites()


@pytest.mark.parametrize("kind", RECURRENT)
def test_the_state_space_layer_is_its_formula(kind: str) -> None:
    """Mamba, Gu and Dao 2023, algorithm 2, written out step by step."""
    module, model = loaded(kind)
    at = "blocks.1."
    names = [at + n for n in ("ssm.in", "ssm.gate", "ssm.params", "ssm.post", "ssm_out")]
    inner, gate, params, post, out = model.run(IDS, capture=names).acts.values()
    mixer = module.backbone.layers[1].mixer
    with torch.no_grad():
        x = F.conv1d(
            F.pad(inner.mT, (2, 0)), mixer.conv1d.weight, mixer.conv1d.bias, groups=inner.shape[-1]
        ).mT
        x = F.silu(x)
        close(params, mixer.x_proj(x), rel=1e-4)
        rank, b, c = params.split([3, 4, 4], dim=-1)
        delta = F.softplus(mixer.dt_proj(rank))
        a, state, ys = -mixer.A_log.exp(), torch.zeros(2, inner.shape[-1], 4), []
        for t in range(IDS.shape[1]):
            step = delta[:, t, :, None]
            state = (step * a).exp() * state + step * b[:, t, None, :] * x[:, t, :, None]
            ys.append((state * c[:, t, None, :]).sum(-1) + mixer.D * x[:, t])
        close(post, torch.stack(ys, 1) * F.silu(gate), rel=1e-4)
        close(out, mixer.out_proj(post), rel=1e-4)
