"""Gradients of all dictionaries of a group at once: batched dense products, no host sync.

Each operation covers ``[n, tokens, d_sae]``, so the number of kernel launches does not depend on
``n``: the way of small dictionaries on a GPU, and of penalised ones while many latents fire.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.step.aux_loss import stacked_aux_gradients
from lensbench.saes.step.group import Group, uses_pre_act
from lensbench.saes.step.looped import add_dead
from lensbench.saes.step.precision import addmm
from lensbench.saes.step.rules.base import Found, Gradients, Now, Objective, Step, gradients


def stacked_gradients(
    group: Group,
    x: Float[Tensor, "tokens d_in"],
    now: Now,
    start: int = 0,
    stop: int | None = None,
    y: Float[Tensor, "tokens d_out"] | None = None,
    objective: Objective | None = None,
) -> list[Gradients]:
    """Gradients of dictionaries ``start .. stop - 1`` of ``group``; of one with an objective."""
    span = slice(start, group.n if stop is None else stop)
    configs, own = group.configs[span], group.own(span)
    x, target = group.problem(own, x, y)
    pre = addmm(own["b_enc"][:, None], x, own["W_enc"].transpose(1, 2))
    layout = group.rule.dense(configs, pre)
    sides = (group.centred, group.widths, objective)
    found = gradients(group.rule, Step(configs[0], layout, x, target, own, now, *sides))
    apart = group.rule.tied or any(map(uses_pre_act, configs))
    if not apart and any(len(dead) for dead in group.dead_lists[span]):
        more = stacked_aux_gradients(group, span, x, pre, found.flow.error)
        for name in ("W_enc", "W_dec", "b_enc"):
            found.of[name] = found.of[name] + getattr(more, name)
        if group.centred:
            found.of["b_dec"] -= torch.bmm(more.b_enc[:, None], own["W_enc"])[:, 0]
        found.along, found.flow.loss = found.along + more.along, found.flow.loss + more.loss
    each = [_at(found, i) for i in range(len(configs))]
    if apart:
        for i, one in enumerate(each):
            add_dead(group, start + i, x[i], found.flow.error[i], one)
    return each


def _at(found: Found, i: int) -> Gradients:
    """Dictionary ``i`` alone, as views."""
    flow = found.flow
    of = {name: value[i] for name, value in found.of.items()}
    state = {name: value[i] for name, value in flow.state.items()}
    return Gradients(of, found.along[i], found.fired[i], flow.loss[i], flow.sse[i], state)
