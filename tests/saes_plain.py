"""Losses of every architecture as plain autograd, from the papers and not from the steps."""

from typing import Any

import torch
from torch import Tensor


class _Step(torch.autograd.Function):
    """1 where ``pre > threshold``; the derivative by the threshold is minus a rectangle."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return (pre > threshold).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        pre, threshold = ctx.saved_tensors
        inside = ((pre - threshold).abs() < ctx.width / 2).float() / ctx.width
        return None, -(inside * grad).sum(0), None


class _Jump(torch.autograd.Function):
    """``pre`` where it exceeds ``threshold``; optionally the rectangle reaches ``pre`` too."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float, both: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width, ctx.both = width, both
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        pre, threshold = ctx.saved_tensors
        inside = ((pre - threshold).abs() < ctx.width / 2).float() / ctx.width
        jump = threshold * inside * grad
        passed = grad * (pre > threshold) + (jump if ctx.both else 0)
        return passed, -jump.sum(0), None, None


def plain_loss(
    p: dict[str, Tensor],
    config: Any,
    x: Tensor,
    dead: Tensor,
    *,
    exponent: float = 1.0,
    detach: bool = True,
    y: Tensor | None = None,
    centre: Tensor | None = None,
    widths: tuple[int, ...] = (),
) -> Tensor:
    """The loss of one dictionary on ``x``, parameters stored by latent.

    With ``y`` it is a transcoder, which reads ``x - centre``; with ``widths`` a crosscoder.
    """
    kind = config.architecture
    W_enc, W_dec = p.get("W_enc", p["W_dec"]), p["W_dec"]
    read = x - (p["b_dec"] if y is None else centre)  # pyright: ignore
    u = read @ W_enc.t()
    pre = u + p["b_enc"]
    acts, penalty = _activate(kind, config, p, u, pre, exponent)
    if widths and kind == "relu":
        norms = torch.stack([part.norm(dim=1) for part in W_dec.split(widths, dim=1)]).sum(0)
        penalty = config.l1_coefficient * (acts * norms).sum(1).mean()
    skip = read @ p["W_skip"].t() if "W_skip" in p else 0.0
    x = (x if y is None else y) - skip  # what is left to write
    if kind == "matryoshka":
        prefixes = [
            (acts[:, :m] @ W_dec[:m] + p["b_dec"] - x).square().sum(1).mean()
            for m in (*(round(s * config.d_sae) for s in config.prefixes), config.d_sae)
        ]
        loss = sum(prefixes) / len(prefixes)
    else:
        loss = (acts @ W_dec + p["b_dec"] - x).square().sum(1).mean()
    loss = loss + penalty
    if kind == "gated":
        open_gates = pre.relu()
        frozen = open_gates @ W_dec.detach() + p["b_dec"].detach()
        # x itself is data; only the b_dec inside the encoder is learnt through this term.
        loss = loss + (frozen - (x.detach() if y is not None else x)).square().sum(1).mean()
    if dead.any() and config.aux_coefficient:
        error = acts @ W_dec + p["b_dec"] - x
        masked = pre.masked_fill(~dead, -torch.inf)
        values, indices = masked.topk(config.aux_k, dim=1)
        aux = torch.zeros_like(pre).scatter(1, indices, values.relu())
        target = -(error.detach() if detach else error)
        loss = loss + config.aux_coefficient * (aux @ W_dec - target).square().sum(1).mean()
    if dead.any() and kind == "jumprelu" and config.penalty == "tanh":
        short = (p["threshold"] * W_enc.shape[1] ** 0.5 - pre).relu() * dead
        loss = loss + config.pre_act_coefficient * short.sum(1).mean()
    return loss  # pyright: ignore


def W_enc_of(p: dict[str, Tensor]) -> Tensor:
    """The encoder, or the decoder where both are one."""
    return p.get("W_enc", p["W_dec"])


def _activate(
    kind: str, config: Any, p: dict[str, Tensor], u: Tensor, pre: Tensor, exponent: float
) -> tuple[Tensor, Any]:
    if kind == "topk":
        values, indices = pre.topk(config.k, dim=1)
        return torch.zeros_like(pre).scatter(1, indices, values.relu()), 0.0
    if kind in ("batchtopk", "matryoshka"):
        flat = pre.relu().reshape(-1)
        values, indices = flat.topk(config.k * len(pre))
        return torch.zeros_like(flat).scatter(0, indices, values).view_as(pre), 0.0
    if kind in ("relu", "tied"):
        acts = pre.relu()
        return acts, config.l1_coefficient * acts.sum(1).mean()
    if kind == "p_anneal":
        acts = pre.relu()
        power = torch.where(acts > 0, (acts.clamp(min=0) + 1e-8) ** exponent, 0.0)
        return acts, config.l1_coefficient * power.sum(1).mean()
    if kind == "gated":
        magnitude = p["r_mag"].exp() * u + p["b_mag"]
        acts = (pre > 0) * magnitude.relu()
        return acts, config.l1_coefficient * pre.relu().sum(1).mean()
    # The parameter is in units of the square root of d_model.
    threshold = p["threshold"] * W_enc_of(p).shape[1] ** 0.5
    width, weight = config.bandwidth, config.l0_coefficient
    acts = _Jump.apply(pre, threshold, width, config.penalty == "tanh")
    if config.penalty == "tanh":
        return acts, weight * (config.tanh_scale * acts).tanh().sum(1).mean()  # pyright: ignore
    l0 = _Step.apply(pre.detach(), threshold, width).sum(1)  # pyright: ignore
    if config.penalty == "step":
        return acts, weight * l0.mean()  # pyright: ignore
    return acts, weight * (l0 / config.target_l0 - 1).square().mean()  # pyright: ignore
