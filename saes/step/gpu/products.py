"""Sparse products of a step on a GPU; the same results as :mod:`lensbench.saes.step.kernels`.

Nothing here waits for the device: grids follow from shapes alone, and what depends on the data is
decided inside the kernels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.saes.step.gpu import product_kernels as kernels

ROWS = 8
"""Rows that a program gathers at once."""
WIDEST = 512
"""Columns of a tile, at most: 8 rows of 512 are 32 registers per thread."""
LIMIT = 512
"""Entries of a latent above which it is summed in pieces."""
ENTRIES = 128
"""Numbers that a program of :func:`per_latent` adds at once."""


@dataclass(frozen=True)
class Pieces:
    """Latents with more than ``limit`` entries, cut up; as many places as there can be pieces."""

    owner: Int[Tensor, " places"]
    """Latent of every piece; ``d_sae`` where there is none."""
    ends: Int[Tensor, " d_sae"]
    """Pieces up to and with each latent."""
    limit: int

    @classmethod
    def of(cls, starts: Int[Tensor, " d_sae_plus_1"], entries: int, limit: int) -> "Pieces":
        """Pieces of latents whose entries begin at ``starts``.

        A latent of n > limit entries has ``ceil(n / limit) <= 2 n / limit`` pieces.
        """
        counts = starts.diff()
        pieces = torch.where(counts > limit, (counts + limit - 1) // limit, 0)
        ends = pieces.cumsum(0)
        places = torch.arange(2 * entries // limit if entries > limit else 0, device=starts.device)
        owner = torch.searchsorted(ends, places, right=True)
        return cls(owner.int(), ends.int(), limit)


def decode(
    values: Tensor, columns: Tensor, starts: Tensor, weight: Tensor, out: Tensor
) -> Float[Tensor, "tokens d"]:
    """``codes @ weight`` into ``out``, which is float32 whatever ``weight`` is."""
    n, d = out.shape
    block = _block(d)
    grid = (n, -(-d // block))
    kernels.decode_rows[grid](
        values,
        columns,
        starts,
        weight,
        out,
        d,
        BLOCK_K=ROWS,
        BLOCK_D=block,
        num_warps=_warps(block),
    )
    return out


def code_gradient(
    columns: Tensor, starts: Tensor, grad: Tensor, weight: Tensor
) -> Float[Tensor, " nnz"]:
    """``grad[row] . weight[column]`` for every entry."""
    n, d = grad.shape
    block = _block(d)
    out = torch.empty(len(columns), device=grad.device, dtype=torch.float32)
    kernels.dot_rows[(n,)](
        grad, columns, starts, weight, out, d, BLOCK_K=ROWS, BLOCK_D=block, num_warps=_warps(block)
    )
    return out


def weight_gradient(
    values: Tensor,
    order: Tensor,
    rows: Tensor,
    starts: Tensor,
    pieces: Pieces,
    x: Tensor,
    out: Tensor,
) -> Float[Tensor, "d_sae d"]:
    """``codes^T @ x`` into ``out``: every latent's entries in order of tokens, without atomics."""
    d_sae, d = out.shape
    block = _block(d)
    blocks = -(-d // block)
    entries = (values, order, rows, starts)
    shape = {"BLOCK_E": ROWS, "BLOCK_D": block, "num_warps": _warps(block)}
    limit = pieces.limit
    kernels.gather_latents[(d_sae, blocks)](*entries, x, out, d, limit, **shape)
    places = len(pieces.owner)
    if places:
        found = (pieces.owner, pieces.ends)
        partial = torch.empty(places, d, device=x.device, dtype=torch.float32)
        kernels.gather_pieces[(places, blocks)](
            *entries, *found, x, partial, d, d_sae, limit, **shape
        )
        kernels.add_pieces[(places, blocks)](
            starts, *found, partial, out, d, d_sae, limit, BLOCK_D=block, num_warps=_warps(block)
        )
    return out


def per_latent(values: Tensor, order: Tensor, starts: Tensor) -> Float[Tensor, "n d_sae"]:
    """Sums by latent of each row of ``values [n, nnz]``."""
    n, entries = values.shape
    d_sae = len(starts) - 1
    out = torch.empty(n, d_sae, device=values.device, dtype=torch.float32)
    kernels.sum_latents[(d_sae, n)](
        values, order, starts, out, entries, d_sae, BLOCK_E=ENTRIES, num_warps=1
    )
    return out


def _block(d: int) -> int:
    """The width of a tile, a power of two, that leaves the fewest columns of the last one empty."""
    if d <= WIDEST:
        return max(16, 1 << (d - 1).bit_length())
    return min((WIDEST, WIDEST // 2, WIDEST // 4), key=lambda block: -(-d // block) * block)


def _warps(block: int) -> int:
    return max(1, min(4, ROWS * block // 1024))
