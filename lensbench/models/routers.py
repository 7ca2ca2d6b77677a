"""How routers choose experts, and edits of the whole of what they give.

The rules are those of the architectures (``Experts.rule`` of a family), written from their
definitions so that a choice can be made anew after an expert's logit was masked. A contract test
holds each against what the router of every architecture gives.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lensbench.models.edits import apply_edits
from lensbench.models.families import Rule
from lensbench.models.session import Key, Session
from lensbench.ops import Call
from lensbench.plan import Edit
from lensbench.router_ops import Choose, Routed, RouterOp

Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Logits, weights and indices, as a router gives them."""


def _softmax(router: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mixtral, Qwen, OLMoE: softmax over all experts, the k largest, to sum 1 where so set."""
    probs = logits.float().softmax(-1).nan_to_num(0.0)  # NaN: no expert is left
    weights, indices = probs.topk(int(router.top_k), dim=-1)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(_TINY)
    return weights, indices


def _chosen_softmax(router: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """gpt-oss: the k largest logits, softmax over these."""
    top, indices = logits.topk(int(router.top_k), dim=-1)
    return top.softmax(-1).nan_to_num(0.0), indices


def _sigmoid_groups(router: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
    """DeepSeek-V3: sigmoid scores; chosen by score plus bias, within the best groups only.

    A group's score is the sum of its two best; a masked expert adds nothing to it.
    """
    gone = logits == -torch.inf
    scores = logits.float().sigmoid()
    choice = (scores + router.e_score_correction_bias).masked_fill(gone, -torch.inf)
    groups = choice.unflatten(-1, (int(router.num_group), -1))
    best = groups.topk(2, dim=-1).values
    score = best.masked_fill(best == -torch.inf, 0).sum(-1)
    score = score.masked_fill((best == -torch.inf).all(-1), -torch.inf)
    kept = score.topk(int(router.topk_group), dim=-1).indices
    open_ = torch.zeros_like(score, dtype=torch.bool).scatter(-1, kept, value=True)
    within = groups.masked_fill(~open_[..., None], -torch.inf).flatten(-2)
    found, indices = within.topk(int(router.top_k), dim=-1, sorted=False)
    weights = scores.gather(-1, indices).masked_fill(found == -torch.inf, 0)
    if router.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return weights * router.routed_scaling_factor, indices


_TINY = torch.finfo(torch.float32).tiny
_RULES: dict[Rule, Callable[[Any, Tensor], tuple[Tensor, Tensor]]] = {
    "softmax": _softmax,
    "chosen_softmax": _chosen_softmax,
    "sigmoid_groups": _sigmoid_groups,
}


def choose(rule: Rule, router: Any) -> Choose:
    """The rule by which a router module chooses."""
    return partial(_RULES[rule], router)


def edit_routing(session: Session, key: Key, given: Triple, rule: Choose) -> tuple[Tensor, Tensor]:
    """Weights and indices after the edits at ``router.weights`` (``key``), in their order.

    Operations on the routing see all three tensors; others see the weights alone. The weights are
    captured here, as edited.
    """
    logits, weights, indices = given
    columns, width = session.grids[key[2]].new, session.grids[key[2]].width
    for on_routing, some in groupby(session.edits.get(key, ()), _is_routing):
        edits = list(some)
        if on_routing:  # packed once, however many rows have an operation of their own
            edits = [_on_packed(edit, given, rule) for edit in edits]
        packed = _pack(logits, weights, indices) if on_routing else weights
        shaped = packed.reshape(-1, width, packed.shape[-1])
        shaped = apply_edits(shaped, edits, columns, attention=False, grad=session.grad)
        packed = shaped.reshape(packed.shape)
        if on_routing:
            logits, weights, indices = _unpack(packed, given)
        else:
            weights = packed
    shown = session.tap(key, weights.reshape(-1, width, weights.shape[-1]), edited=True)
    return shown.reshape(weights.shape), indices


def _is_routing(edit: Edit) -> bool:
    return isinstance(edit.op, RouterOp)


def _pack(logits: Tensor, weights: Tensor, indices: Tensor) -> Tensor:
    """All three side by side in a type that holds each exactly (indices below 2**24)."""
    wide = torch.promote_types(torch.promote_types(logits.dtype, weights.dtype), torch.float32)
    return torch.cat([x.to(wide) for x in (logits, weights, indices)], dim=-1)


def _unpack(packed: Tensor, given: Triple) -> Triple:
    sizes = [x.shape[-1] for x in given]
    logits, weights, indices = packed.split(sizes, dim=-1)
    whole = indices.detach().to(given[2].dtype)
    return logits.to(given[0].dtype), weights.to(given[1].dtype), whole


def _on_packed(edit: Edit, given: Triple, rule: Choose) -> Edit:
    """The edit as one of the packed tensor, so that rows and positions are found as elsewhere."""
    op: Any = edit.op

    def route(packed: Tensor) -> Tensor:
        flat = packed.reshape(-1, packed.shape[-1])
        logits, weights, indices = flat.split([x.shape[-1] for x in given], dim=-1)
        # The rule sees logits as the router made them: half precision rounds before the choice.
        at = Routed(logits.to(given[0].dtype), weights, indices.to(given[2].dtype), rule)
        found = op.route(at)
        return _pack(found.logits, found.weights, found.indices).to(packed.dtype).view_as(packed)

    return replace(edit, op=Call(route, repr(op)))
