"""Masked-diffusion decoding of one text, with what every step said kept for later questions.

At each step the predictor gives logits for all positions, and the most certain masked ones take
their largest logit (low-confidence remasking, Nie et al. 2025, LLaDA). Any function of ids will do
as a predictor: a table of logits made by hand, or ``lambda ids: model.run(ids[None]).logits[0]``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NonFiniteError

Predictor = Callable[[Tensor], Tensor]
"""Ids ``[pos]`` with masks among them to logits ``[pos, d_vocab]``."""
Commit = Callable[[int, int, "Step"], bool]
"""Told the step (from 1), the number of steps and what the step says: fill in the rest now?"""


@dataclass(frozen=True, eq=False)
class Step:
    """What the predictor says at one step, before tokens are set."""

    best: Int[np.ndarray, " pos"]
    gap: Float[np.ndarray, " pos"]
    """Largest minus second logit."""
    top1: Float[np.ndarray, " pos"]
    """Largest probability."""
    entropy: Float[np.ndarray, " pos"]
    """Nats."""
    masked: Bool[np.ndarray, " pos"]


@dataclass(frozen=True, eq=False)
class Denoising:
    """Steps of one text, and the text they ended in."""

    steps: tuple[Step, ...]
    n_steps: int
    """Steps planned; more than were made where the rest was committed early."""
    final: Int[np.ndarray, " pos"]
    start: Int[np.ndarray, " pos"]
    """The text before the first step, -1 where masked."""

    def committed(self, step: int) -> Int[np.ndarray, " pos"]:
        """The text if all masks of step ``step`` (from 1) took their largest logit.

        Raises:
            ConfigError: no such step.
        """
        if not 1 <= step <= len(self.steps):
            raise ConfigError(f"steps are 1 to {len(self.steps)}, got {step!r}")
        at = self.steps[step - 1]
        # A token that was set stays, so what was not masked then is what it is at the end.
        return np.where(at.masked, at.best, self.final)


def denoise(
    predict: Predictor,
    ids: Int[Tensor, " pos"],
    mask_id: int,
    n_steps: int,
    *,
    commit: Commit | None = None,
) -> Denoising:
    """Fill in the masks of one text in ``n_steps`` steps, as many per step as goes evenly.

    Args:
        predict: called once per step.
        ids: the text; ``mask_id`` where tokens are wanted.
        mask_id: id of the mask.
        n_steps: 1 to the number of masks.
        commit: asked before each step sets tokens; True fills in every mask and ends.

    Raises:
        ConfigError: no mask, a number of steps out of range, or logits of another shape.
        NonFiniteError: logits that are NaN.

    Example:
        >>> predict = lambda ids: torch.nn.functional.one_hot(torch.arange(len(ids)), 20).float()
        >>> run_ = acceleration.denoise(predict, torch.full((6,), 19), mask_id=19, n_steps=3)
    """
    tokens = torch.as_tensor(ids).clone()
    masked = tokens == mask_id
    n_masks = int(masked.sum())
    n_steps = whole_number("n_steps", n_steps, least=1)
    if tokens.ndim != 1 or n_steps > n_masks:
        raise ConfigError(
            f"ids must be one text with at least n_steps={n_steps} masks of id {mask_id}, got "
            f"shape {list(tokens.shape)} with {n_masks}"
        )
    start = torch.where(masked, -1, tokens).numpy()
    kept: list[Step] = []
    for number in range(1, n_steps + 1):
        step = _step(predict(tokens), masked)
        kept.append(step)
        best = torch.from_numpy(step.best)
        if commit is not None and commit(number, n_steps, step):
            tokens = torch.where(masked, best, tokens)
            break
        count = n_masks * number // n_steps - n_masks * (number - 1) // n_steps
        certain = torch.from_numpy(step.top1).masked_fill(~masked, -1.0)
        chosen = certain.argsort(descending=True, stable=True)[:count]
        tokens[chosen], masked[chosen] = best[chosen], False
    return Denoising(tuple(kept), n_steps, tokens.numpy(), start)


def _step(logits: Tensor, masked: Tensor) -> Step:
    if logits.ndim != 2 or len(logits) != len(masked) or logits.shape[1] < 2:
        raise ConfigError(
            f"the predictor must give [{len(masked)}, d_vocab] logits of at least two tokens, got "
            f"{list(logits.shape)}"
        )
    if bool(logits.isnan().any()):
        raise NonFiniteError("the predictor gave logits that are NaN")
    logits = logits.detach().cpu().double()
    top = logits.topk(2, dim=-1).values
    probs = logits.softmax(-1)
    return Step(
        best=logits.argmax(-1).numpy(),
        gap=(top[:, 0] - top[:, 1]).numpy(),
        top1=probs.max(-1).values.numpy(),
        entropy=-torch.special.xlogy(probs, probs).sum(-1).numpy(),
        masked=masked.numpy().copy(),
    )
