"""Gradients of one dictionary with sparse codes: what runs dictionary by dictionary on a CPU.

With ``e = x_hat - x`` on ``B`` tokens the loss is::

    mean |e|^2 + l1 * mean sum(acts) + aux_coefficient * mean |aux_hat - (x - x_hat)|^2

``aux_hat`` decodes the ``aux_k`` largest *dead* latents without ``b_dec``, and its target is
detached (Gao et al. 2024, appendix A.2); its gradient reaches encoder and decoder. The encoder
forward is the only dense product; ``b_dec`` enters through ``x - b_dec``, so its gradient is
``sum(2 e / B) - W_enc @ grad b_enc``, one matrix-vector product.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.configs import BatchTopKConfig, DictionaryConfig, TopKConfig
from lensbench.saes.step import kernels
from lensbench.saes.step.encode import (
    Workspace,
    batch_top_k_codes,
    positive_codes,
    pre_activations,
    top_k_codes,
)
from lensbench.saes.step.group import Group, aux_width
from lensbench.saes.step.kernels import Codes, Transposed
from lensbench.saes.step.selection import top_k

SPARSE_BELOW = 1 / 16
"""Share of positive latents above which a ReLU dictionary takes dense products."""


@dataclass
class Gradients:
    """Gradients of one dictionary and what the step saw on the way."""

    W_enc: Float[Tensor, "d_sae d_model"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_model"]
    """Still with its component along the decoder rows."""
    b_dec: Float[Tensor, " d_model"]
    along: Float[Tensor, " d_sae"]
    """Component of the decoder gradient along each (unit-norm) decoder row."""
    fired: Float[Tensor, " d_sae"]
    """Tokens on which each latent fired."""
    loss: Float[Tensor, ""]
    sse: Float[Tensor, ""]
    """Sum over tokens of |x_hat - x|^2."""
    smallest: Float[Tensor, ""]
    """Smallest positive value (BatchTopK's threshold comes from it); infinity if none fired."""

    def tensors(self) -> list[Tensor]:
        """Gradients in the order of ``group.PARAMETERS``."""
        return [self.W_enc, self.b_enc, self.W_dec, self.b_dec]


@dataclass
class Looped:
    """Steps through a group's dictionaries one after another."""

    screened: bool
    space: Workspace = field(default_factory=Workspace)

    def one(
        self, group: Group, i: int, x: Float[Tensor, "tokens d_model"], l1: float
    ) -> Gradients | None:
        """Gradients of dictionary ``i``; None where dense products would be cheaper."""
        config = group.configs[i]
        centred = torch.sub(x, group.b_dec[i], out=self.space.get("centred", tuple(x.shape), x))
        codes = self._codes(config, centred, group.W_enc[i], group.b_enc[i], str(config.name))
        return None if codes is None else self._backward(group, i, centred, codes, l1)

    def _codes(
        self, config: DictionaryConfig, x: Tensor, weight: Tensor, bias: Tensor, key: str
    ) -> Codes | None:
        if isinstance(config, TopKConfig):
            return top_k_codes(x, weight, bias, config.k, self.space, screened=self.screened)
        if isinstance(config, BatchTopKConfig):
            return batch_top_k_codes(
                x, weight, bias, config.k, self.space, key, screened=self.screened
            )
        pre = pre_activations(x, weight, bias, self.space)
        positive = pre > 0
        if int(positive.sum()) > SPARSE_BELOW * positive.numel():
            return None
        return positive_codes(pre, positive)

    def _backward(self, group: Group, i: int, x: Tensor, codes: Codes, l1: float) -> Gradients:
        W_enc, W_dec, n = group.W_enc[i], group.W_dec[i], len(x)
        error = kernels.decode(codes, W_dec, self.space.get("error", tuple(x.shape), x)).sub_(x)
        sse = torch.dot(error.view(-1), error.view(-1))
        loss = sse / n
        grad = torch.mul(error, 2 / n, out=self.space.get("grad", tuple(x.shape), x))
        active = (codes.values > 0).to(x.dtype)
        into = kernels.code_gradient(codes, grad, W_dec).mul_(active)
        along = into * codes.values
        if l1:
            loss = loss + codes.values.sum() * (l1 / n)
            into = into.add_(active, alpha=l1 / n)
        plan = Transposed.of(codes)
        shape = tuple(W_dec.shape)
        grad_dec = kernels.weight_gradient(
            codes.values, plan, grad, self.space.get("grad.W_dec", shape, x)
        )
        grad_enc = kernels.weight_gradient(into, plan, x, self.space.get("grad.W_enc", shape, x))
        grad_b_enc, along, fired = kernels.per_latent(codes, into, along, active)
        dead = group.dead_lists[i]
        if len(dead):
            aux = aux_gradients(group, i, x, error, dead)
            grad_dec[dead] += aux.W_dec
            grad_enc[dead] += aux.W_enc
            grad_b_enc[dead] += aux.b_enc
            along[dead] += aux.along
            loss = loss + aux.loss
        never = codes.values.new_full((1,), torch.inf)  # a batch may have no code at all
        smallest = torch.cat([torch.where(active > 0, codes.values, torch.inf), never]).min()
        return Gradients(
            W_enc=grad_enc,
            b_enc=grad_b_enc,
            W_dec=grad_dec,
            b_dec=grad.sum(0) - grad_b_enc @ W_enc,
            along=along,
            fired=fired,
            loss=loss,
            sse=sse,
            smallest=smallest,
        )


@dataclass(frozen=True)
class AuxGradients:
    """What the auxiliary loss adds, for the dead latents only."""

    W_enc: Float[Tensor, "dead d_model"]
    b_enc: Float[Tensor, " dead"]
    W_dec: Float[Tensor, "dead d_model"]
    along: Float[Tensor, " dead"]
    loss: Float[Tensor, ""]


def aux_gradients(
    group: Group, i: int, x: Float[Tensor, "tokens d_model"], error: Tensor, dead: Tensor
) -> AuxGradients:
    """Gradients of ``c * mean |aux_hat + error|^2`` with ``error`` detached; ``x`` is centred.

    ``aux_hat = relu(top aux_k of (x @ W_enc[dead]^T + b_enc[dead])) @ W_dec[dead]``.
    """
    config = group.configs[i]
    W_enc, W_dec = group.W_enc[i][dead], group.W_dec[i][dead]
    acts = torch.addmm(group.b_enc[i][dead], x, W_enc.t())
    width = aux_width(config, group.d_model)
    if len(dead) > width:
        values, indices = top_k(acts, width)
        acts = torch.zeros_like(acts).scatter_(1, indices, values)
    acts = acts.relu_()
    residual = torch.addmm(error, acts, W_dec)
    weight = config.aux_coefficient / len(x)
    loss = torch.dot(residual.view(-1), residual.view(-1)) * weight
    grad = residual.mul_(2 * weight)
    into = (grad @ W_dec.t()).mul_(acts > 0)
    return AuxGradients(
        W_enc=into.t() @ x,
        b_enc=into.sum(0),
        W_dec=acts.t() @ grad,
        along=(into * acts).sum(0),
        loss=loss,
    )
