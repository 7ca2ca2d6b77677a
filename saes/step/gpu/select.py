"""Exact selection on a GPU: the largest of every row, or of a batch, without a wait.

Both give a number of entries known beforehand. Numbers below zero count as zero, which is what
they become in a dictionary; where too few are positive, zeros fill the list.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.saes.step.gpu import selection_kernels as kernels

BLOCK = 2048
"""Columns that a program looks at once, and groups whose maxima narrow the search."""
PROGRAMS = 1024
"""Programs that count; each has a row of counts of its own, so that nothing is added twice."""


def top_k(
    x: Tensor, k: int, *, block: int = BLOCK
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """Values and columns of the ``k`` largest of every row of ``x``; of equal ones, the first."""
    rows, n = x.shape
    block = min(_power(max(block, 8 * k)), _power(n))
    room = _power(4 * k)
    values = torch.empty(rows, k, device=x.device, dtype=torch.float32)
    columns = torch.empty(rows, k, device=x.device, dtype=torch.int32)
    scratch = torch.empty(rows, room, device=x.device, dtype=torch.int32)
    kernels.row_top_k[(rows,)](
        x, values, columns, scratch, n, k, BLOCK=block, ROOM=room, SHIFT=_shift(x), num_warps=8
    )
    return values, columns


def batch_top_k(
    x: Tensor, wanted: int, *, block: int = BLOCK
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``wanted`` largest entries of ``x``: values, columns, rows, and where rows begin.

    1. The cut, by counting: eight bits of the keys at a time, from the highest.
    2. How many entries of every row are above it or equal it.
    3. Every row writes its own, at a place that follows from those counts.
    """
    rows, n = x.shape
    block = min(block, _power(n))
    cut = _batch_cut(x, wanted, block)
    above, equal = (torch.empty(rows, device=x.device, dtype=torch.int32) for _ in range(2))
    shape = {"BLOCK": block, "SHIFT": _shift(x), "num_warps": 8}
    kernels.row_counts[(rows,)](x, cut, above, equal, n, **shape)
    before = equal.cumsum(0) - equal
    ties = (wanted - above.sum() - before).clamp(min=0).minimum(equal).int()
    counts = above + ties
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    values = torch.empty(wanted, device=x.device, dtype=torch.float32)
    columns = torch.empty(wanted, device=x.device, dtype=torch.int32)
    kernels.write_rows[(rows,)](x, cut, ties, starts, values, columns, n, **shape)
    tokens = torch.arange(rows, device=x.device, dtype=torch.int32)
    return values, columns, tokens.repeat_interleave(counts, output_size=wanted), starts


def _batch_cut(x: Tensor, wanted: int, block: int) -> Int[Tensor, " 1"]:
    """Key of the ``wanted``-th largest entry; 0 where fewer are positive."""
    total = x.numel()
    programs = min(PROGRAMS, -(-total // block))
    rounds = -(-total // (programs * block))
    left = torch.full((1,), wanted, device=x.device, dtype=torch.int64)
    prefix = torch.zeros(1, device=x.device, dtype=torch.int32)
    few = torch.zeros(1, device=x.device, dtype=torch.bool)
    high = 31 - _shift(x)
    while high:
        low = max(0, high - 8)
        bins = 1 << (high - low)
        table = torch.empty(programs, bins, device=x.device, dtype=torch.int32)
        kernels.histogram[(programs,)](
            x,
            prefix,
            table,
            total,
            rounds,
            ABOVE=high,
            BELOW=low,
            BINS=bins,
            BLOCK=block,
            SHIFT=_shift(x),
            num_warps=8,
        )
        from_top = torch.nn.functional.pad(table.sum(0).flip(0).cumsum(0), (1, 0))
        whole = (from_top[1:] < left).sum(0, keepdim=True)  # bins that are taken entirely
        few |= whole == bins  # only ever at the first level: the others hold what is left
        left = left - from_top.gather(0, whole)
        prefix = (prefix << (high - low)) + (bins - 1 - whole).clamp(min=0).int()
        high = low
    return torch.where(few, 0, prefix).int()


def _power(n: int) -> int:
    """The smallest power of two that is at least ``n``, and 16."""
    return max(16, 1 << (n - 1).bit_length())


def _shift(x: Tensor) -> int:
    return 16 if x.dtype == torch.bfloat16 else 0
