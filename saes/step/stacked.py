"""Gradients of all dictionaries of a group at once: batched dense products, no host sync.

Each operation covers ``[n, tokens, d_sae]``, so the number of kernel launches does not depend on
``n``: the way of small dictionaries on a GPU, and of ReLU dictionaries while many latents fire.
Same loss as :mod:`lensbench.saes.step.looped`; nothing here depends on values, so nothing waits.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.configs import BatchTopKConfig, DictionaryConfig, TopKConfig
from lensbench.saes.step.group import Group, aux_width, uses_aux
from lensbench.saes.step.looped import Gradients


@dataclass(frozen=True)
class _Part:
    """Some dictionaries of a group, as views where they are neighbours."""

    configs: list[DictionaryConfig]
    W_enc: Float[Tensor, "n d_sae d_model"]
    b_enc: Float[Tensor, "n d_sae"]
    W_dec: Float[Tensor, "n d_sae d_model"]
    dead: Tensor


def stacked_gradients(
    group: Group,
    x: Float[Tensor, "tokens d_model"],
    l1: list[float],
    start: int = 0,
    stop: int | None = None,
) -> list[Gradients]:
    """Gradients of dictionaries ``start .. stop - 1`` of ``group``."""
    span = slice(start, group.n if stop is None else stop)
    part = _Part(
        group.configs[span],
        group.W_enc[span],
        group.b_enc[span],
        group.W_dec[span],
        group.dead[span],
    )
    n, tokens = len(part.configs), len(x)
    centred = x - group.b_dec[span][:, None]
    pre = torch.baddbmm(part.b_enc[:, None], centred, part.W_enc.transpose(1, 2))
    acts = _select(pre, part.configs)
    error = torch.bmm(acts, part.W_dec).sub_(centred)
    sse = error.square().sum((1, 2))
    weight = torch.tensor(l1[span], device=x.device, dtype=x.dtype)
    loss = sse / tokens + weight * acts.sum((1, 2)) / tokens
    grad = error * (2 / tokens)
    active = acts > 0
    into = torch.bmm(grad, part.W_dec.transpose(1, 2)).mul_(active)
    along = (into * acts).sum(1)
    if any(l1[span]):
        into = into.add_(active * (weight / tokens)[:, None, None])
    grad_dec = torch.bmm(acts.transpose(1, 2), grad)
    grad_enc = torch.bmm(into.transpose(1, 2), centred)
    grad_b = into.sum(1)
    smallest = torch.where(active, acts, torch.inf).amin((1, 2))
    if any(len(dead) for dead in group.dead_lists[span]):
        aux = _aux(part, centred, pre, error, group.d_model)
        grad_dec, grad_enc, grad_b = grad_dec + aux[0], grad_enc + aux[1], grad_b + aux[2]
        along, loss = along + aux[3], loss + aux[4]
    grad_b_dec = grad.sum(1) - torch.bmm(grad_b[:, None], part.W_enc)[:, 0]
    fired = active.sum(1).to(x.dtype)
    columns = (grad_enc, grad_b, grad_dec, grad_b_dec, along, fired, loss, sse, smallest)
    return [Gradients(*(column[i] for column in columns)) for i in range(n)]


def _select(pre: Tensor, configs: list[DictionaryConfig]) -> Tensor:
    """Activations ``[n, tokens, d_sae]``; the largest k of the group sets the width."""
    first, (n, tokens, d_sae) = configs[0], pre.shape
    if isinstance(first, TopKConfig):
        ks = [c.k for c in configs if isinstance(c, TopKConfig)]
        kept = _largest(pre, ks)
        return kept.relu_()
    if isinstance(first, BatchTopKConfig):
        ks = [c.k * tokens for c in configs if isinstance(c, BatchTopKConfig)]
        kept = _largest(pre.relu().view(n, 1, tokens * d_sae), ks)
        return kept.view(n, tokens, d_sae)
    return pre.relu()


def _largest(x: Tensor, ks: list[int]) -> Tensor:
    """``x [n, rows, columns]`` with all but the ``ks[i]`` largest of each row set to zero."""
    values, indices = torch.topk(x, max(ks), dim=2, sorted=min(ks) != max(ks))
    if min(ks) != max(ks):
        rank = torch.arange(max(ks), device=x.device)
        limit = torch.tensor(ks, device=x.device)
        values = values * (rank < limit[:, None, None])
    return torch.zeros_like(x).scatter_(2, indices, values)


def _aux(
    part: _Part, x: Tensor, pre: Tensor, error: Tensor, d_model: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Auxiliary gradients of decoder, encoder and ``b_enc``, component along, loss."""
    used = torch.tensor([uses_aux(c) for c in part.configs], device=x.device)
    mask = (part.dead & used[:, None])[:, None]
    masked = torch.where(mask, pre, 0.0).relu_()
    acts = _largest(masked, [aux_width(c, d_model) for c in part.configs])
    coefficient = torch.tensor([c.aux_coefficient for c in part.configs], device=x.device)
    coefficient = coefficient * mask.any(2)[:, 0] / x.shape[1]
    residual = torch.baddbmm(error, acts, part.W_dec)
    loss = residual.square().sum((1, 2)) * coefficient
    grad = residual * (2 * coefficient)[:, None, None]
    into = torch.bmm(grad, part.W_dec.transpose(1, 2)).mul_(acts > 0)
    return (
        torch.bmm(acts.transpose(1, 2), grad),
        torch.bmm(into.transpose(1, 2), x),
        into.sum(1),
        (into * acts).sum(1),
        loss,
    )
