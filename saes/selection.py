"""Exact selection of the largest pre-activations, faster than ``torch.topk`` on wide rows.

The largest k entries of a row lie within the k groups of largest maximum: a group that holds one
of them has a maximum at least as large, and at most k groups can. So group maxima prune the row to
``k * group`` candidates, level by level, and no entry is missed (ties may be broken differently).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 8
"""Entries per group; three levels of 8 were the fastest of those measured for 8192 columns."""


def top_k(
    x: Float[Tensor, "rows n"], k: int
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """Values and indices of the ``k`` largest entries per row, in no particular order.

    Equivalent to ``torch.topk(x, k, sorted=False)`` up to the choice among equal entries.
    """
    n = x.shape[1]
    if n % GROUP or n // GROUP < 2 * k or x.device.type != "cpu":
        values, indices = torch.topk(x, k, dim=1, sorted=False)
        return values, indices
    return _pruned(x, k)


def _pruned(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    rows, n = x.shape
    groups = n // GROUP
    maxima = x.view(rows, GROUP, groups).amax(1)  # group j holds columns j, j + groups, ...
    _, best = top_k(maxima, k)
    offsets = torch.arange(0, n, groups, device=x.device)
    candidates = (best[:, :, None] + offsets).view(rows, -1)
    values, where = torch.topk(x.gather(1, candidates), k, dim=1, sorted=False)
    return values, candidates.gather(1, where)
