"""Rows of token ids as a batch, and plans of single rows as one plan of that batch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.interventions.experts.rows import batch_of
from lensbench.ops import Add
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.tokens import Tokens

__all__ = ["Asked", "batch_of", "merged"]
Asked: TypeAlias = PromptPairs | Tokens | Tensor | np.ndarray | str | Sequence[Any]
"""Pairs, texts, or token ids in any usual form."""


def merged(plans: Sequence[Plan]) -> Plan:
    """Plan i for row i of a batch, as one plan.

    Steps at the same tokens of every row become one edit whose value has a row for each.

    Raises:
        ConfigError: plans that skip or stop, which is done for all rows or none.
    """
    if any(plan.skips or plan.stop is not None for plan in plans):
        raise ConfigError("plans of single rows hold edits; they neither skip layers nor stop")
    firsts = [plan.edits[0] if len(plan.edits) == 1 else None for plan in plans]
    if stacked := _stacked(firsts):
        return Plan((stacked,))
    return Plan(
        tuple(replace(edit, rows=(row,)) for row, plan in enumerate(plans) for edit in plan.edits)
    )


def _stacked(edits: Sequence[Edit | None]) -> Edit | None:
    """One edit for all rows, where each row adds vectors of one shape at the same tokens."""
    first, values = edits[0], list[torch.Tensor]()
    for one in edits:
        if one is None or first is None or not isinstance(one.op, Add):
            return None
        if (one.site, one.positions, one.dims) != (first.site, first.positions, first.dims):
            return None
        value = torch.as_tensor(one.op.value)
        if not value.ndim or (values and value.shape != values[0].shape):
            return None
        values.append(value)
    stack = torch.stack(values)
    return replace(first, op=Add(stack[:, None] if stack.ndim == 2 else stack)) if first else None
