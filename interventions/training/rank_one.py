"""The smallest phase change: a rank-1 tensor learned with some of its factors clamped to the truth.

1. Truth: T* = a* b* c* (outer product), unit vectors in ``dim`` dimensions.
2. y = <a, x1> <b, x2> <c, x3> with x1, x2, x3 ~ N(0, I); loss = E[(y - y*)^2] / 2, which is exactly
   |T - T*|^2 / 2, so no inputs are drawn.
3. Free factors start at N(0, start^2) per entry, turned so that each overlaps its truth positively;
   clamped ones are the truth from the first step to the last. Plain gradient descent.
4. Where several factors have to be learned, each grows only as fast as the others let it: a plateau
   and then a sudden fall. A clamp takes that wait away.

Source: Singh et al. 2024, "What needs to go right for an induction head?", arXiv:2404.07129. The
start and the norm of the truth are not stated there for these figures; those above are ours.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.training.result import UNCLAMPED, ClampedTraining
from lensbench.results import Controls

FACTORS = "abc"
CONTROL = "c elsewhere"


def rank_one_training(
    clamps: Sequence[str] = ("c", "bc"),
    *,
    dim: int = 20,
    lr: float = 1.0,
    steps: int = 1000,
    start: float = 0.05,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> ClampedTraining:
    """Learn a rank-1 tensor unclamped, and with each set of factors clamped to the truth.

    ``loss = |a b c - a* b* c*|^2 / 2`` (its first value is about 1/2), at every step. A control
    run has ``c`` clamped to a random unit vector at a right angle to the truth: it learns nothing.
    At ``lr=1`` the unclamped run overshoots once it is there (the sharpest direction of the optimum
    has curvature 3), so read the steps at which a share of the loss is *first* reached.

    Args:
        clamps: sets of factors, ``"c"`` or ``"bc"``, one run each.
        dim: length of each factor, at least 2.
        lr: step of gradient descent.
        steps: updates of every run.
        start: standard deviation of the entries of free factors at the start.
        seeds: of truth and start; one run each.

    Raises:
        ConfigError: a factor that is none of a, b, c; all of them at once; numbers out of range.

    Source: Singh et al. 2024, arXiv:2404.07129.

    Example:
        >>> found = interventions.rank_one_training(("c", "bc"), steps=100, seeds=(0,))
    """
    began = time.monotonic()
    names = _checked(clamps)
    whole_number("dim", dim, least=2)
    whole_number("steps", steps, least=1)
    lr, start = positive_number("lr", lr), positive_number("start", start)
    if isinstance(seeds, str) or not hasattr(seeds, "__iter__"):
        raise ConfigError(f"seeds must be a list of whole numbers, such as [0], got {seeds!r}")
    if not seeds:
        raise ConfigError("seeds must be a list of at least one whole number, got none")
    runs = (UNCLAMPED, *names, CONTROL)
    drawn = [_drawn(dim, start, seed) for seed in seeds]
    truth, first, elsewhere = (torch.stack(part) for part in zip(*drawn, strict=True))
    free, begin = torch.ones(len(runs), 3, 1, dtype=torch.float64), first.repeat(len(runs), 1, 1, 1)
    for i, clamped in enumerate(("", *names, "c")):
        at = [FACTORS.index(f) for f in clamped]
        free[i, at] = 0.0
        begin[i][:, at] = elsewhere[:, None] if runs[i] == CONTROL else truth[:, at]
    losses = _descend(begin, truth, lr * free[:, None], steps)[:, :, None]
    settings = {"dim": dim, "lr": lr, "steps": steps, "start": start}
    return ClampedTraining(
        runs=tuple("clamp " + n if n in names else n for n in runs),
        seeds=tuple(seeds),
        steps=np.arange(steps + 1),
        measure=("loss",), unit=("squared error / 2",),
        layer=np.array([-1]), head=np.array([-1]),
        values=losses, n=1,
        config={"clamps": list(names), "seeds": list(seeds), **settings},
        provenance=provenance.record(seconds=time.monotonic() - began),
        controls=Controls(
            {"loss_left": float((losses[-1, :, 0].min(-1) / losses[-1, :, 0, 0]).mean())},
            "share of the loss left with c clamped at a right angle to the truth",
        ),
    )  # fmt: skip


def _checked(clamps: Any) -> tuple[str, ...]:
    if isinstance(clamps, str):
        raise ConfigError(f"clamps must be a list of sets of factors, ['c', 'bc']; got {clamps!r}")
    names = tuple("".join(sorted(str(c))) for c in clamps)
    for name in names:
        if not name or set(name) - set(FACTORS) or len(set(name)) < len(name) or name == FACTORS:
            raise ConfigError(
                f"a clamp names one or two of the factors a, b, c, such as 'bc'; got {name!r}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"a set of factors is listed twice in {names}")
    return names


def _drawn(dim: int, start: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Truth ``[3, dim]``, start ``[3, dim]``, and a unit vector at a right angle to c*."""
    rng = torch.Generator().manual_seed(whole_number("seeds", seed, least=0))
    drawn = torch.randn(7, dim, generator=rng, dtype=torch.float64)
    truth = drawn[:3] / drawn[:3].norm(dim=1, keepdim=True)
    first = start * drawn[3:6]
    # (a, b) and (-a, -b) are one tensor; without this, half of all starts head the wrong way.
    first = first * (first * truth).sum(1, keepdim=True).sign()
    elsewhere = drawn[6] - (drawn[6] @ truth[2]) * truth[2]
    return truth, first, elsewhere / elsewhere.norm()


def tensor_loss(
    factors: Float[Tensor, "*batch 3 dim"], truth: Float[Tensor, "*batch 3 dim"]
) -> Float[Tensor, "*batch"]:
    """``|a b c - a* b* c*|^2 / 2`` by inner products: the tensors themselves are never made."""
    own, both = (factors * factors).sum(-1).prod(-1), (factors * truth).sum(-1).prod(-1)
    return (own - 2 * both + (truth * truth).sum(-1).prod(-1)) / 2


def _descend(
    factors: Float[Tensor, "runs seeds 3 dim"],
    truth: Float[Tensor, "seeds 3 dim"],
    lr: Float[Tensor, "runs 1 3 1"],
    steps: int,
) -> Float[np.ndarray, "runs seeds checkpoints"]:
    """Loss before every update and after the last; ``lr`` is 0 for what is clamped."""
    losses: list[Tensor] = []
    for step in range(steps + 1):
        factors = factors.detach().requires_grad_()
        loss = tensor_loss(factors, truth)
        losses.append(loss.detach())
        if step < steps:
            # A sum over runs and seeds: each has the gradients it would have alone.
            factors = factors - lr * torch.autograd.grad(loss.sum(), factors)[0]
    return torch.stack(losses, dim=-1).numpy()
