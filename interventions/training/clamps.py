"""Clamps: parts of an induction circuit set to perfect in every forward pass of training.

A clamp is a :class:`~lensbench.plan.Plan`, or a function that makes one for each batch (a pattern
that depends on where the answer stands). The clamped part gets no gradient: what made it, such as
the queries and keys of a head whose pattern is set, is left as it was.

Source: Singh et al. 2024, arXiv:2404.07129 (there called optogenetics).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.training.sequences import Sequences
from lensbench.plan import Call, Plan, Set, edit

ClampLike: TypeAlias = Plan | Callable[[Sequences], Plan]
FLOOR = 1e-6
"""Attention that a token has at least where logits are read from a pattern."""


def plan_of(clamp: ClampLike, sequences: Sequences) -> Plan:
    """The plan of a clamp for one batch.

    Raises:
        ConfigError: no plan, nor a function that gives one.
    """
    plan = clamp if isinstance(clamp, Plan) else clamp(sequences) if callable(clamp) else None
    if not isinstance(plan, Plan):
        raise ConfigError(
            "a clamp is a Plan, or a function of the batch that returns one; got "
            f"{clamp!r}{'' if clamp is plan else f', which gave {plan!r}'}"
        )
    if plan.stop is not None:
        raise ConfigError("a clamp must let the model reach its logits; this plan stops early")
    return plan


@dataclass(frozen=True)
class ClampOffset:
    """Every token of a head attends to the one ``offset`` before it, the first ones to themselves.

    1 is a perfect previous-token head; 0 moves nothing, and is a control.
    """

    layer: int
    head: int
    offset: int = 1

    def __post_init__(self) -> None:
        """Refuse what is no offset."""
        whole_number("offset", self.offset, least=0)

    def __call__(self, sequences: Sequences) -> Plan:
        """The plan for sequences of this length."""
        n = sequences.tokens.shape[1]
        to = torch.arange(n) - self.offset
        pattern = torch.eye(n)[torch.where(to < 0, torch.arange(n), to)]
        return edit(f"blocks.{self.layer}.attn.pattern", Set(pattern), heads=[self.head])


@dataclass(frozen=True)
class ClampMatch:
    """The last token of a head attends to the right position with ``share``, else to the wrong.

    1 is a perfect induction head; 1/2 tells the two apart no better than chance, and is a control.
    """

    layer: int
    head: int
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share must lie in 0..1, got {self.share!r}")

    def __call__(self, sequences: Sequences) -> Plan:
        """The plan for this batch."""
        right, wrong = _positions(sequences)
        pattern = torch.zeros(sequences.tokens.shape)
        rows = torch.arange(len(pattern))
        pattern[rows, right] += self.share
        pattern[rows, wrong] += 1 - self.share
        return edit(
            f"blocks.{self.layer}.attn.pattern",
            Set(pattern[:, None, None]), heads=[self.head], positions=[-1],
        )  # fmt: skip


@dataclass(frozen=True)
class ClampCopy:
    """Perfect copying: the last logits are read from a head's pattern.

    ``logit(v) = ln(FLOOR + sum of the last token's attention to tokens v)``, so that only where the
    head attends is left to learn. Made of Python functions: the plan cannot be saved.
    """

    layer: int
    head: int

    def __call__(self, sequences: Sequences) -> Plan:
        """The plan for this batch, for one forward pass at a time."""
        tokens, seen = sequences.tokens, list[Tensor]()

        def look(pattern: Tensor) -> Tensor:
            seen[:] = [pattern[:, 0]]
            return pattern

        def read(logits: Tensor) -> Tensor:
            attention = seen[0].to(logits)
            given = torch.zeros_like(logits[:, 0]).scatter_add(
                1, tokens.to(logits.device), attention
            )
            return (given + FLOOR).log()[:, None]

        site = f"blocks.{self.layer}.attn.pattern"
        looking = edit(site, Call(_last_row(look), "look"), heads=[self.head])
        return looking + edit("logits", Call(read, "read"), positions=[-1])


def _last_row(look: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``look`` at the last query of a pattern ``[batch, 1, query, key]``, which is passed on."""

    def through(pattern: Tensor) -> Tensor:
        look(pattern[:, :, -1])
        return pattern

    return through


def _positions(sequences: Sequences) -> tuple[Tensor, Tensor]:
    if sequences.right is None or sequences.wrong is None:
        raise ConfigError(
            "this clamp needs to know where the answer stands: give Sequences right= and wrong="
        )
    return sequences.right, sequences.wrong
