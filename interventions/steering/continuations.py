"""What the steered model says, and how likely the unsteered one finds it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lensbench.interventions.experts.rows import Rows
from lensbench.interventions.steering.rows import batch_of, merged
from lensbench.models.base import Model
from lensbench.plan import Plan


def continue_rows(
    model: Model,
    rows: Rows,
    plans: Sequence[Plan],
    new_tokens: int,
    batch_size: int,
    tick: Callable[[int], object] | None = None,
) -> Rows:
    """Greedy continuation of row i under plan i, many rows to a batch, with a key-value cache.

    ``tick`` is told how many rows each batch has written.
    """
    found: Rows = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        plan = merged(plans[part])
        found += model.generate(batch_of(model, rows[part]), plan, new_tokens)
        if tick is not None:
            tick(len(rows[part]))
    return found


def surprise(model: Model, rows: Rows, said: Rows, batch_size: int) -> np.ndarray:
    """Mean ``-log p`` of each continuation under the model as it is, nats per token.

    ``exp`` of it is the perplexity. Text that was said more than once is scored once.
    """
    asked = [(tuple(row), tuple(new)) for row, new in zip(rows, said, strict=True)]
    todo = list(dict.fromkeys(asked))
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for start in range(0, len(todo), batch_size):
        part = todo[start : start + batch_size]
        logits = model.run(batch_of(model, [[*row, *new] for row, new in part])).logits
        assert logits is not None
        for (row, new), own in zip(part, logits, strict=True):
            before = own[len(own) - len(new) - 1 : -1].float().log_softmax(-1)
            picked = before.gather(-1, torch.tensor(new, device=own.device)[:, None])
            known[row, new] = -float(picked.double().mean())
    return np.array([known[one] for one in asked])
