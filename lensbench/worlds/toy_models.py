"""Toy Models of Superposition: small autoencoders whose geometry is known.

1. Features x_i: uniform on [0, 1] with probability 1 - S, else 0 (S is the sparsity).
2. h = W x in d_hidden dimensions, x_hat = relu(W^T h + b); loss mean_x sum_i I_i (x_i - x_hat_i)^2.
3. All instances (sparsities x copies, and a linear control per sparsity) train at once, batched.
4. Per sparsity the copy of the lowest loss on common fresh features stands for it.

Source: Elhage et al. 2022, "Toy Models of Superposition" (transformer-circuits.pub).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from lensbench.config import Config
from lensbench.errors import NonFiniteError
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.worlds.toy_geometry import ToyModels, dimensions_per_feature

_EVALUATED = 50_000  # features rows behind a loss: copies differ by a few per cent


class ToyModelsConfig(Config):
    """Instances to train, all of one size."""

    n_features: int = Field(5, ge=1)
    """Number of features."""
    d_hidden: int = Field(2, ge=1)
    """Width m of the bottleneck."""
    sparsity: tuple[float, ...] = Field((0.0, 0.7, 0.9, 0.99), min_length=1)
    """Probability that a feature is 0; one group of instances each."""
    importance: tuple[float, ...] = Field((1.0,), min_length=1)
    """I_i = importance^i in the loss: one number for all sparsities, or one each."""
    copies: int = Field(4, ge=1)
    """Starts per sparsity: training ends in local optima, the best copy is kept apart."""
    linear: bool = False
    """Leave the ReLU out of every instance, not only of the control."""
    steps: int = Field(10_000, ge=1)
    """Optimiser steps (AdamW)."""
    batch_size: int = Field(1024, ge=1)
    """Rows per step and instance."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate, constant."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of weights and features."""

    @model_validator(mode="after")
    def _fits(self) -> ToyModelsConfig:
        if bad := [s for s in self.sparsity if not 0 <= s < 1]:
            raise ValueError(f"sparsity must lie in [0, 1): at 1 no feature is ever on; got {bad}")
        if len(set(self.sparsity)) < len(self.sparsity):
            raise ValueError("a sparsity is listed twice; raise copies instead")
        if bad := [i for i in self.importance if not 0 < i <= 1]:
            raise ValueError(f"importance must lie in (0, 1]; got {bad}")
        if len(self.importance) not in (1, len(self.sparsity)):
            raise ValueError(
                f"importance has {len(self.importance)} numbers for {len(self.sparsity)} "
                "sparsities; give one, or one each"
            )
        return self


def train(config: ToyModelsConfig | dict[str, Any]) -> ToyModels:
    """Train every instance, and one linear control per sparsity, in one batched loop.

    Weights start from Xavier's normal distribution, biases from 0; AdamW, torch's defaults.

    Raises:
        ConfigError: a setting that cannot be.
        NonFiniteError: a loss that is not finite; lower ``lr``.
    """
    if not isinstance(config, ToyModelsConfig):
        config = ToyModelsConfig.parse(config)
    began = time.monotonic()
    rng = torch.Generator().manual_seed(config.seed)
    group, linear = _instances(config)
    density = 1 - torch.tensor(config.sparsity)[group]
    decays = config.importance * (len(config.sparsity) if len(config.importance) == 1 else 1)
    importance = torch.tensor(decays)[group, None] ** torch.arange(config.n_features)
    W, b = _fitted(config, density, importance, linear, rng)
    losses = _losses(W, b, config, importance, linear, group, rng)
    if not bool(losses.isfinite().all()):
        raise NonFiniteError(f"toy models diverged at lr {config.lr:g}; lower lr")
    controls = Controls(
        {
            "linear/dimensions_per_feature": float(dimensions_per_feature(W[linear]).mean()),
            "linear/loss": float(losses[linear].mean()),
        },
        "the same models without ReLU: one dimension per represented feature, no superposition",
    )
    return ToyModels(
        sparsity=tuple(config.sparsity),
        group=group.numpy(),
        linear=linear.numpy(),
        importance=importance.numpy(),
        W=W.numpy(),
        b=b.numpy(),
        loss=losses.numpy(),
        config=config.to_dict(),
        provenance=record(seed=config.seed, seconds=time.monotonic() - began),
        controls=controls,
    )


def _instances(config: ToyModelsConfig) -> tuple[Tensor, Bool[Tensor, " instances"]]:
    """Sparsity index of every instance, and which have no ReLU; the controls come last."""
    each = torch.arange(len(config.sparsity))
    group = torch.cat([each.repeat_interleave(config.copies), each])
    linear = torch.arange(len(group)) >= len(each) * config.copies
    return group, linear | config.linear


def _fitted(
    config: ToyModelsConfig,
    density: Float[Tensor, " instances"],
    importance: Float[Tensor, "instances n"],
    linear: Bool[Tensor, " instances"],
    rng: torch.Generator,
) -> tuple[Float[Tensor, "instances m n"], Float[Tensor, "instances n"]]:
    n, m = config.n_features, config.d_hidden
    W = (torch.randn(len(density), m, n, generator=rng) * (2 / (m + n)) ** 0.5).requires_grad_()
    b = torch.zeros(len(density), n, requires_grad=True)
    adam = torch.optim.AdamW([W, b], lr=config.lr)
    for _ in range(config.steps):
        x = _features((len(density), config.batch_size, n), density, rng)
        # A sum over instances: each has the gradients it would have alone.
        loss = _error(W, b, x, importance, linear).mean(1).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return W.detach(), b.detach()


def _features(
    shape: tuple[int, int, int], density: Float[Tensor, " instances"], rng: torch.Generator
) -> Float[Tensor, "instances rows n"]:
    # One draw serves both: u < density fires, and u / density is then uniform on [0, 1].
    u = torch.rand(shape, generator=rng) / density[:, None, None]
    return torch.where(u < 1, u, torch.zeros_like(u))


def _error(
    W: Float[Tensor, "instances m n"],
    b: Float[Tensor, "instances n"],
    x: Float[Tensor, "instances rows n"],
    importance: Float[Tensor, "instances n"],
    linear: Bool[Tensor, " instances"],
) -> Float[Tensor, "instances rows"]:
    """sum_i I_i (x_i - x_hat_i)^2 of every row."""
    pre = x @ W.mT @ W + b[:, None]
    x_hat = torch.where(linear[:, None, None], pre, pre.relu())
    return ((x - x_hat).square() * importance[:, None]).sum(-1)


def _losses(
    W: Float[Tensor, "instances m n"],
    b: Float[Tensor, "instances n"],
    config: ToyModelsConfig,
    importance: Float[Tensor, "instances n"],
    linear: Bool[Tensor, " instances"],
    group: Tensor,
    rng: torch.Generator,
) -> Float[Tensor, " instances"]:
    """Mean loss on fresh rows, the same for all copies of a sparsity so that they compare."""
    losses = torch.empty(len(W))
    for index, sparsity in enumerate(config.sparsity):
        shape = (1, _EVALUATED, config.n_features)
        x = _features(shape, torch.tensor([1 - sparsity]), rng)
        for i in np.flatnonzero(group.numpy() == index):
            part = slice(i, i + 1)
            losses[i] = _error(W[part], b[part], x, importance[part], linear[part]).mean()
    return losses
