"""The auxiliary loss: what dead latents could explain of the error (Gao et al. 2024, appendix A.2).

``aux_hat`` decodes the ``aux_k`` largest *dead* latents without ``b_dec``, and its target is the
error of the step, detached; its gradient reaches encoder and decoder of those latents alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.architectures import JumpReLUConfig
from lensbench.saes.step.group import Group, aux_width
from lensbench.saes.step.precision import addmm, mm
from lensbench.saes.step.rules.fixed_k import largest
from lensbench.saes.step.selection import top_k


@dataclass(frozen=True)
class AuxGradients:
    """What the auxiliary loss adds: for the dead latents only, or for all with zeros."""

    W_enc: Float[Tensor, "*n latents d_in"]
    b_enc: Float[Tensor, "*n latents"]
    W_dec: Float[Tensor, "*n latents d_out"]
    along: Float[Tensor, "*n latents"]
    loss: Float[Tensor, "*n"]


def aux_gradients(
    group: Group, i: int, x: Float[Tensor, "tokens d_in"], error: Tensor, dead: Tensor
) -> AuxGradients:
    """Gradients of ``c * mean |aux_hat + error|^2`` with ``error`` detached; ``x`` is centred.

    ``aux_hat = relu(top aux_k of (x @ W_enc[dead]^T + b_enc[dead])) @ W_dec[dead]``.
    """
    config = group.configs[i]
    W_enc, W_dec = group.W_enc[i][dead], group.W_dec[i][dead]
    acts = addmm(group.b_enc[i][dead], x, W_enc.t())
    width = aux_width(config, group.d_out)
    if len(dead) > width:
        values, indices = top_k(acts, width)
        acts = torch.zeros_like(acts).scatter_(1, indices, values)
    acts = acts.relu_()
    residual = addmm(error, acts, W_dec)
    weight = config.aux_coefficient / len(x)
    loss = torch.dot(residual.view(-1), residual.view(-1)) * weight
    grad = residual.mul_(2 * weight)
    into = mm(grad, W_dec.t()).mul_(acts > 0)
    return AuxGradients(
        W_enc=mm(into.t(), x),
        b_enc=into.sum(0),
        W_dec=mm(acts.t(), grad),
        along=(into * acts).sum(0),
        loss=loss,
    )


def stacked_aux_gradients(
    group: Group, span: slice, x: Tensor, pre: Tensor, error: Tensor
) -> AuxGradients:
    """The same for several dictionaries at once, without a wait for the device."""
    configs, W_dec = group.configs[span], group.W_dec[span]
    used = torch.tensor([c.aux_coefficient > 0 for c in configs], device=x.device)
    mask = (group.dead[span] & used[:, None])[:, None]
    masked = torch.where(mask, pre, 0.0).relu_()
    acts = largest(masked, [aux_width(c, group.d_out) for c in configs])
    coefficient = torch.tensor([c.aux_coefficient for c in configs], device=x.device)
    coefficient = coefficient * mask.any(2)[:, 0] / x.shape[1]
    residual = addmm(error, acts, W_dec)
    loss = residual.square().sum((1, 2)) * coefficient
    grad = residual * (2 * coefficient)[:, None, None]
    into = mm(grad, W_dec.transpose(1, 2)).mul_(acts > 0)
    return AuxGradients(
        W_enc=mm(into.transpose(1, 2), x),
        b_enc=into.sum(1),
        W_dec=mm(acts.transpose(1, 2), grad),
        along=(into * acts).sum(1),
        loss=loss,
    )


def pre_act_gradients(
    group: Group, i: int, x: Float[Tensor, "tokens d_in"], dead: Tensor
) -> tuple[AuxGradients, Tensor]:
    """Gradients of JumpReLU's pre-activation loss, and that of the thresholds.

    ``c * mean sum relu(threshold - pre)`` over dead latents (Anthropic, January 2025 update, where
    it is over all of them).
    """
    config = group.configs[i]
    assert isinstance(config, JumpReLUConfig)
    unit = group.d_in**0.5  # of the parameter: see the rule
    threshold = group.params["threshold"][i][dead] * unit
    pre = addmm(group.b_enc[i][dead], x, group.W_enc[i][dead].t())
    short = (threshold - pre).relu_()
    weight = config.pre_act_coefficient / len(x)
    below = (short > 0).to(x.dtype) * weight
    count = below.sum(0)
    rows = group.W_dec[i][dead]
    return AuxGradients(
        W_enc=-(below.t() @ x),
        b_enc=-count,
        W_dec=torch.zeros_like(rows),
        along=torch.zeros_like(count),
        loss=short.sum() * weight,
    ), count * unit
