"""Which sites a block has, read off the block itself: dense layers among experts differ."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from lensbench.models.base import Shape
from lensbench.models.families import Architecture, Family, blocks_of, mlp_reader, part
from lensbench.models.session import ATTENTION_KEYS, CROSS_KEYS
from lensbench.sites import Site


def sites_of(module: Any, architecture: Architecture) -> tuple[Site, ...]:
    """Every site of a model, in execution order."""
    found = [Site("logits")]
    if not architecture.two_stacks:
        found.append(Site("embed"))  # two stacks share one embedding, called twice
    for stack, family in architecture.stacks.items():
        for layer, block in enumerate(blocks_of(module, family)):
            names = _names(block, family, opened=architecture.interface)
            found += [Site(name, layer, stack) for name in names]
        if family.final_norm is not None:
            found += [Site("ln_final.scale", None, stack), Site("ln_final", None, stack)]
    return tuple(sorted(found))


def _names(block: nn.Module, family: Family, *, opened: bool) -> Iterator[str]:
    yield from ("resid_pre", "resid_post")
    if part(block, family.ln1) is not None:
        yield "ln1.scale"
    if part(block, family.ln2) is not None:
        yield "ln2.scale"
    if family.ssm is not None:
        yield from ("ssm.in", "ssm.gate", "ssm.params", "ssm.post", "ssm_out")
        return
    yield from ATTENTION_KEYS if opened else ("attn.z",)
    yield from ("attn_out", "mlp_out")
    if not family.parallel:
        yield "resid_mid"
    if family.cross is not None:
        yield from (*(CROSS_KEYS if opened else ()), "xln.scale", "xattn_out", "resid_xmid")
    yield from _inside_the_mlp(block, family)


def _inside_the_mlp(block: nn.Module, family: Family) -> Iterator[str]:
    up = part(block, family.up)
    if mlp_reader(block, family) is not None:
        yield "mlp.in"
    if up is not None:
        yield "mlp.up"
    if part(block, family.gate) is not None or (family.fused and up is not None):
        yield "mlp.gate"
    if part(block, family.down) is not None:
        yield "mlp.post"
    moe = family.moe
    if moe is not None and part(block, moe.experts) is not None:
        yield from ("router.logits", "router.weights", "router.indices", "experts.out")
        if part(block, moe.shared) is not None:
            yield "experts.shared_out"


def width_of(site: Site, shape: Shape, d_embed: int) -> int:
    """Size of a site's last axis; 0 where it is the number of keys."""
    part_name = site.name.split(".")[-1]
    if part_name in ("scores", "pattern"):
        return 0
    if part_name == "scale":
        return 1
    if site.name.startswith(("attn.", "xattn.")):
        return shape.d_head_v if part_name in ("v", "z") else shape.d_head
    if site.name.startswith(("mlp.", "ssm.")) and site.name != "mlp.in":
        return shape.d_ssm_params if part_name == "params" else shape.d_mlp
    own = {
        "embed": d_embed,
        "logits": shape.d_vocab,
        "router.logits": shape.n_experts,
        "router.weights": shape.top_k,
        "router.indices": shape.top_k,
    }
    return own.get(site.name, shape.d_model)
