"""The checks of the certificate that go through sites and heads one by one.

1. heads: zeroing a head of z equals zeroing its columns before the output projection, by a plain
   hook, in self-attention and in cross-attention.
2. sites: every site fires, finite; every writable site moves the logits.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lensbench.models.families import blocks_of
from lensbench.plan import Add, Op, Set, Zero, edit
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.models.checks import Examiner

_MOVES = 1e-5


def heads(examiner: "Examiner") -> None:
    """Zeroing a head of z against a plain hook that zeroes its columns before the projection."""
    model, worst, seen = examiner.model, 0.0, 0
    for site in model.sites():
        if site.name not in ("attn.z", "xattn.z") or site.layer is None:
            continue
        shape = model.layout.shapes[site.stack]
        if site.layer not in (0, shape.n_layers - 1):
            continue
        for head in sorted({0, shape.n_heads - 1}):
            ours = examiner.run(examiner.tokens, edit(site, Zero(), heads=[head]))
            gap = examiner.gap(ours, _without_head(examiner, site, head))
            worst, seen = max(worst, gap), seen + 1
    if not seen:
        return
    note = f"{seen} heads zeroed in z against before the output projection"
    examiner.add_gap("heads", worst, note)


def _without_head(examiner: "Examiner", site: Site, head: int) -> Tensor:
    layout, module = examiner.model.layout, examiner.model.module
    family, n_heads = layout.architecture.stacks[site.stack], layout.shapes[site.stack].n_heads
    path = family.o_proj if family.cross is None or site.name == "attn.z" else family.cross.o_proj
    block: nn.Module = blocks_of(module, family)[site.layer or 0]

    def cut(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0].clone()
        width = x.shape[-1] // n_heads
        x[..., head * width : (head + 1) * width] = 0
        return (x, *args[1:])

    handle = block.get_submodule(path).register_forward_pre_hook(cut)
    try:
        return examiner.own()
    finally:
        handle.remove()


def sites_fire(examiner: "Examiner") -> None:
    """Every site gives finite numbers."""
    sites = examiner.model.sites()
    acts = examiner.model.run(examiner.tokens, capture=sites).acts
    bad = [n for n, x in acts.items() if not bool(torch.isfinite(x).all())]
    silent = len(sites) - len(acts) + len(bad)
    note = f"{len(sites)} sites fire, finite"
    examiner.add("sites fire", silent == 0, silent, 0, "sites", note)


def sites_write(examiner: "Examiner") -> None:
    """Every writable site moves the logits."""
    model = examiner.model
    sites = [s for s in model.sites() if s.spec.writable and s.name != "logits"]
    acts = model.run(examiner.tokens, capture=sites).acts
    plans = [edit(s, _nudge(s, acts[s], model.card.n_experts)) for s in sites]
    row = examiner.tokens
    single = type(row)(row.ids[:1], None, None if row.decoder_ids is None else row.decoder_ids[:1])
    edited = model.run_many(single, plans, batch_size=128).logits
    assert edited is not None
    change = (edited - examiner.logits[:1]).abs().flatten(1).amax(1).float() / examiner.scale
    dead = [str(s) for s, c in zip(sites, change.tolist(), strict=True) if not c > _MOVES]
    note = f"{len(sites)} writable sites move the logits"
    note = f"dead: {', '.join(dead[:4])}" if dead else note
    unit = "min max|change| / std of logits"
    examiner.add("sites write", not dead, float(change.min()), _MOVES, unit, note)


def _nudge(site: Site, x: Tensor, n_experts: int) -> Op:
    """A change of the first row of about the site's own size, uneven over positions and dims.

    Softmax ignores what is common to all keys, and norms ignore what is common to all dims. An
    expert's number becomes the next expert's: set, not added to, as a tie in half precision may
    choose another one in a batch of another size.
    """
    if site.name == "router.indices":
        return Set(((x + 1) % n_experts)[0])
    size = x.abs().clamp_max(1e3).mean().clamp_min(1e-3)
    wave = torch.where(torch.arange(x.shape[-1], device=x.device) % 2 == 0, 1.0, -0.5)
    if site.spec.axes.split()[1] == "pos":
        steps = 1.0 + torch.arange(x.shape[1], device=x.device) % 3
        wave = steps.view(-1, *[1] * (x.ndim - 2)) * wave
    return Add((3 * size * wave).to(x.dtype).expand_as(x)[0])
