"""Captured values against plain hooks on a second, independent copy of the same model.

Every weight, norm and bias is random, so a double norm or a missing scale cannot hide. Tolerance:
0 where both sides run the same operations, 5e-5 of the largest value where attention is computed in
the open on our side and by another kernel on theirs (fp32, d_head 8-12).
"""

import copy

import pytest
import torch

from tests.helpers import FAMILY_NAMES, random_ids, tiny

IDS = random_ids(3, 9, seed=4)


def plain_hooks(module, family, ids):
    """Sites read with ordinary hooks, straight from the module tree."""
    seen = {}

    def keep(name, *, of_input=False, part=None):
        def hook(_module, args, out=None):
            x = args[0] if of_input else (out[0] if isinstance(out, tuple) else out)
            if part is not None:
                x = x.chunk(2, -1)[part]
            seen[name] = x.detach().clone().reshape(*ids.shape, -1)

        return hook

    for layer, block in enumerate(module.get_submodule(family.blocks)):
        at = f"blocks.{layer}."
        block.register_forward_pre_hook(keep(at + "resid_pre", of_input=True))
        block.register_forward_hook(keep(at + "resid_post"))
        block.get_submodule(family.attn_out).register_forward_hook(keep(at + "attn_out"))
        block.get_submodule(family.mlp_out).register_forward_hook(keep(at + "mlp_out"))
        block.get_submodule(family.down).register_forward_pre_hook(
            keep(at + "mlp.post", of_input=True)
        )
        block.get_submodule(family.o_proj).register_forward_pre_hook(
            keep(at + "attn.z", of_input=True)
        )
        up = block.get_submodule(family.up)
        up.register_forward_pre_hook(keep(at + "mlp.in", of_input=True))
        up.register_forward_hook(keep(at + "mlp.up", part=1 if family.fused else None))
        if family.fused:
            up.register_forward_hook(keep(at + "mlp.gate", part=0))
        if family.gate is not None:
            block.get_submodule(family.gate).register_forward_hook(keep(at + "mlp.gate"))
        if not family.parallel:
            block.get_submodule(family.ln2).register_forward_pre_hook(
                keep(at + "resid_mid", of_input=True)
            )
    module.get_input_embeddings().register_forward_hook(keep("embed"))
    module.get_submodule(family.final_norm).register_forward_hook(keep("ln_final"))
    with torch.no_grad():
        seen["logits"] = module(input_ids=ids, use_cache=False).logits
    return seen


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_every_site_holds_what_a_plain_hook_reads(kind: str) -> None:
    import lensbench
    from lensbench.models.families import family_of

    reference = tiny(kind)
    model = lensbench.load_model(copy.deepcopy(reference), certify=False)
    theirs = plain_hooks(reference, family_of(reference.config), IDS)
    names = [str(s) for s in model.sites() if str(s) in theirs]
    assert len(names) >= 3 * 8
    exact = [n for n in names if "attn.z" not in n]
    for name, ours in model.run(IDS, capture=exact).acts.items():
        torch.testing.assert_close(
            ours.reshape(theirs[name].shape), theirs[name], rtol=0, atol=0, msg=name
        )
    for name in set(names) - set(exact):
        ours = model.run(IDS, capture=[name], logits="none").acts[name]
        close = 5e-5 * float(theirs[name].abs().max())
        torch.testing.assert_close(
            ours.reshape(theirs[name].shape), theirs[name], rtol=0, atol=close, msg=name
        )


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_attention_sites_agree_with_transformers_eager(kind: str) -> None:
    import lensbench

    module = tiny(kind)
    module.set_attn_implementation("eager")  # both sides eager: the same operations, bit for bit
    eager = copy.deepcopy(module)
    with torch.no_grad():
        patterns = eager(input_ids=IDS, output_attentions=True, use_cache=False).attentions
    model = lensbench.load_model(module, certify=False)
    for layer in range(3):
        at = f"blocks.{layer}.attn."
        acts = model.run(
            IDS, capture=[at + n for n in ("q", "k", "v", "scores", "pattern", "z")]
        ).acts
        torch.testing.assert_close(acts[at + "pattern"], patterns[layer], rtol=0, atol=0)
        torch.testing.assert_close(
            acts[at + "scores"].softmax(-1), acts[at + "pattern"], rtol=0, atol=2e-6
        )
        groups = acts[at + "q"].shape[2] // acts[at + "v"].shape[2]
        value = acts[at + "v"].repeat_interleave(groups, dim=2)
        z = torch.einsum("bhqk,bkhd->bqhd", acts[at + "pattern"], value)
        torch.testing.assert_close(acts[at + "z"], z, rtol=0, atol=2e-5)
        assert acts[at + "q"].shape[-1] == model.width(at + "q") == acts[at + "z"].shape[-1]


@pytest.mark.parametrize("kind", [k for k in FAMILY_NAMES if k != "gpt_neox"])
def test_the_residual_stream_adds_up(kind: str) -> None:
    import lensbench

    model = lensbench.load_model(tiny(kind), certify=False)
    names = [
        f"blocks.1.{n}" for n in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    ]
    pre, attn, mid, mlp, post = model.run(IDS, capture=names).acts.values()
    torch.testing.assert_close(pre + attn, mid, rtol=0, atol=1e-5)
    torch.testing.assert_close(mid + mlp, post, rtol=0, atol=1e-5)
    assert float((pre + mlp - mid).abs().max()) > 1e-2  # control: the wrong part does not add up


@pytest.mark.parametrize("kind", FAMILY_NAMES)
def test_norm_scales_are_the_denominators(kind: str) -> None:
    import lensbench

    model = lensbench.load_model(tiny(kind), certify=False)
    acts = model.run(
        IDS,
        capture=[
            "blocks.2.resid_pre",
            "blocks.2.ln1.scale",
            "blocks.2.resid_post",
            "ln_final.scale",
        ],
    ).acts
    for resid, scale in (
        ("blocks.2.resid_pre", "blocks.2.ln1.scale"),
        ("blocks.2.resid_post", "ln_final.scale"),
    ):
        x = acts[resid]
        centred = (
            x - x.mean(-1, keepdim=True) if model.card.family in ("gpt2", "gpt_neox", "opt") else x
        )
        expected = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(acts[scale], expected, rtol=1e-4, atol=0)
