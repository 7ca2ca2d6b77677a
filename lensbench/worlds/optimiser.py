"""Muon for the hidden matrices, Adam for embeddings and norms; state as plain named tensors."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lensbench.worlds.recipe import TrainConfig


def orthogonalise(g: Float[Tensor, "n rows cols"], steps: int = 5) -> Float[Tensor, "n rows cols"]:
    """Approximate U V^T of every matrix by a quintic Newton-Schulz iteration in bf16.

    Singular values end near 1 (0.7 to 1.2). Needs rows <= cols.
    Source: Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon).
    """
    x = g.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.float()


class Optimiser(Protocol):
    """What a training run asks of an optimiser; parameters and state are named, to be saved."""

    params: dict[str, nn.Parameter]
    state: dict[str, Tensor]

    def step(self, t: int, scale: float) -> None:
        """Update from ``.grad``; ``t`` counts from 1, ``scale`` multiplies learning rates."""
        ...


def optimiser_of(config: TrainConfig, model: nn.Module) -> Optimiser:
    """The optimiser of a recipe."""
    from lensbench.worlds.words.recipe import WordsTrainConfig

    if isinstance(config, WordsTrainConfig):
        return AdamW(model, lr=config.adam_lr, weight_decay=config.weight_decay)
    return MuonAdam(model, muon_lr=config.muon_lr, adam_lr=config.adam_lr)


class AdamW:
    """AdamW on all parameters, weight decay on matrices. Source: Loshchilov & Hutter 2019."""

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:  # fmt: skip
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas
        self.params = dict(model.named_parameters())
        self.state = {
            f"{kind}.{name}": torch.zeros_like(p)
            for kind in ("mean", "square")
            for name, p in self.params.items()
        }

    @torch.no_grad()
    def step(self, t: int, scale: float) -> None:
        """Update from ``.grad``; ``t`` counts from 1. A parameter without a gradient rests."""
        for name, p in self.params.items():
            if p.grad is None:
                continue
            lr, (slow, slower) = scale * self.lr, self.betas
            mean = self.state[f"mean.{name}"].lerp_(p.grad, 1 - slow)
            square = self.state[f"square.{name}"].lerp_(p.grad.square(), 1 - slower)
            denominator = (square / (1 - slower**t)).sqrt_().add_(1e-8)
            if p.ndim > 1:
                p.mul_(1 - lr * self.weight_decay)
            p.addcdiv_(mean / (1 - slow**t), denominator, value=-lr)
            p.grad = None


class MuonAdam:
    """One optimiser for a small transformer; matrices of one shape are orthogonalised together."""

    def __init__(self, model: nn.Module, *, muon_lr: float, adam_lr: float) -> None:
        self.muon_lr, self.adam_lr = muon_lr, adam_lr
        self.params = dict(model.named_parameters())
        self.matrices = {name: p for name, p in self.params.items() if _is_hidden(name, p)}
        self.rest = {name: p for name, p in self.params.items() if name not in self.matrices}
        self.state: dict[str, Tensor] = {}
        for name, p in self.matrices.items():
            self.state[f"momentum.{name}"] = torch.zeros_like(p)
        for name, p in self.rest.items():
            self.state[f"mean.{name}"] = torch.zeros_like(p)
            self.state[f"square.{name}"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, t: int, scale: float) -> None:
        """Update from ``.grad``; ``t`` counts from 1, ``scale`` multiplies both learning rates."""
        self._muon(scale * self.muon_lr)
        self._adam(t, scale * self.adam_lr)
        for p in self.params.values():
            p.grad = None

    def _muon(self, lr: float, beta: float = 0.95) -> None:
        groups: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor, float]]] = {}
        for name, p in self.matrices.items():
            if p.grad is None:
                continue
            momentum = self.state[f"momentum.{name}"].lerp_(p.grad, 1 - beta)
            update = p.grad.lerp(momentum, beta)
            # GPT-2's matrices are stored [inputs, outputs], all others [outputs, inputs].
            rows, columns = p.shape[-2:][::-1] if ".h." in name else p.shape[-2:]
            gain = max(1.0, rows / columns) ** 0.5
            shape = _wide(update).shape[-2], _wide(update).shape[-1]
            groups.setdefault(shape, []).append((p, update, gain))
        for members in groups.values():
            # A stack of experts is as many matrices as it holds experts.
            parts = [
                _wide(update).reshape(-1, *_wide(update).shape[-2:]) for _, update, _ in members
            ]
            whole = orthogonalise(torch.cat(parts)).split([len(part) for part in parts])
            for (p, update, gain), u in zip(members, whole, strict=True):
                turned = u.mT if _is_tall(update) else u
                p.mul_(1 - lr * 0.02).add_(turned.reshape(p.shape), alpha=-lr * gain)

    def _adam(self, t: int, lr: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        for name, p in self.rest.items():
            if p.grad is None:
                continue
            mean = self.state[f"mean.{name}"].lerp_(p.grad, 1 - betas[0])
            square = self.state[f"square.{name}"].lerp_(p.grad.square(), 1 - betas[1])
            denominator = (square / (1 - betas[1] ** t)).sqrt_().add_(1e-8)
            p.addcdiv_(mean / (1 - betas[0] ** t), denominator, value=-lr)


def _is_hidden(name: str, p: nn.Parameter) -> bool:
    """Is this a matrix of a block (``layers``, ``h``, ``block``), or a stack, one per expert?

    Routers choose rather than map, and T5's position bias is a table: both are left to Adam.
    """
    in_a_block = any(part in name for part in (".layers.", ".h.", ".block."))
    chooses = name.endswith(("mlp.gate.weight", "relative_attention_bias.weight"))
    return in_a_block and p.ndim in (2, 3) and not chooses


def _is_tall(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _wide(x: Tensor) -> Tensor:
    return x.mT if _is_tall(x) else x
