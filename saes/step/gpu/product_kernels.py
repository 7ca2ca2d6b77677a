"""Triton kernels of the sparse products; :mod:`lensbench.saes.step.gpu.products` launches them.

A program gathers a tile of several rows at once, so that many independent loads are in flight, and
sums in float32 whatever the type of what it reads. No atomics: every sum has one order, and a step
run twice gives the same bits.
"""

# pyright: basic
# Triton has no type stubs, and its language gives other meanings to Python's operators.

from typing import Any, no_type_check

import triton
import triton.language as tl

jit: Any = triton.jit  # what it says it returns knows no launch options, such as num_warps


@jit
@no_type_check
def decode_rows(
    values, columns, starts, weight, out, d, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr
):
    """``out[t] = sum over entries e of token t of values[e] * weight[columns[e]]``."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = at < d
    last = tl.load(starts + token + 1)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for first in range(tl.load(starts + token), last, BLOCK_K):
        entry = first + tl.arange(0, BLOCK_K)
        listed = entry < last
        value = tl.load(values + entry, mask=listed, other=0.0).to(tl.float32)
        column = tl.load(columns + entry, mask=listed, other=0).to(tl.int64)
        mask = listed[:, None] & inside[None, :]
        rows = tl.load(weight + column[:, None] * d + at[None, :], mask=mask, other=0.0)
        total += tl.sum(value[:, None] * rows.to(tl.float32), 0)
    tl.store(out + token * d + at, total, mask=inside)


@jit
@no_type_check
def dot_rows(grad, columns, starts, weight, out, d, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr):
    """``out[e] = grad[t] . weight[columns[e]]`` for every entry e of token t."""
    token = tl.program_id(0).to(tl.int64)
    last = tl.load(starts + token + 1)
    for first in range(tl.load(starts + token), last, BLOCK_K):
        entry = first + tl.arange(0, BLOCK_K)
        listed = entry < last
        column = tl.load(columns + entry, mask=listed, other=0).to(tl.int64)
        dots = tl.zeros((BLOCK_K,), tl.float32)
        for corner in range(0, d, BLOCK_D):
            at = corner + tl.arange(0, BLOCK_D)
            inside = at < d
            left = tl.load(grad + token * d + at, mask=inside, other=0.0).to(tl.float32)
            mask = listed[:, None] & inside[None, :]
            rows = tl.load(weight + column[:, None] * d + at[None, :], mask=mask, other=0.0)
            dots += tl.sum(left[None, :] * rows.to(tl.float32), 1)
        tl.store(out + entry, dots, mask=listed)


@jit
@no_type_check
def _gather(
    values, order, rows, x, first, last, at, d, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr
):
    """``sum over first <= j < last of values[order[j]] * x[rows[j], at]``, block by block."""
    total = tl.zeros((BLOCK_D,), tl.float32)
    for begin in range(first, last, BLOCK_E):
        j = begin + tl.arange(0, BLOCK_E)
        listed = j < last
        entry = tl.load(order + j, mask=listed, other=0)
        value = tl.load(values + entry, mask=listed, other=0.0).to(tl.float32)
        row = tl.load(rows + j, mask=listed, other=0).to(tl.int64)
        mask = listed[:, None] & (at < d)[None, :]
        tile = tl.load(x + row[:, None] * d + at[None, :], mask=mask, other=0.0)
        total += tl.sum(value[:, None] * tile.to(tl.float32), 0)
    return total


@jit
@no_type_check
def gather_latents(
    values,
    order,
    rows,
    starts,
    x,
    out,
    d,
    limit,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``out[f] = sum over entries e of latent f of values[e] * x[rows[e]]``.

    Latents of more than ``limit`` entries are left to :func:`gather_pieces`: one program would work
    on them long after all others are done.
    """
    latent = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    first, last = tl.load(starts + latent), tl.load(starts + latent + 1)
    if last - first <= limit:
        total = _gather(values, order, rows, x, first, last, at, d, BLOCK_E, BLOCK_D)
        tl.store(out + latent * d + at, total, mask=at < d)


@jit
@no_type_check
def gather_pieces(
    values,
    order,
    rows,
    starts,
    owner,
    piece_ends,
    x,
    partial,
    d,
    d_sae,
    limit,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sums of at most ``limit`` entries of the latents that have more.

    Pieces are numbered through all latents; ``owner[p]`` is the latent of piece p (``d_sae``: there
    is no such piece), ``piece_ends[f]`` the number of pieces up to and with latent f.
    """
    piece = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    latent = tl.load(owner + piece)
    if latent < d_sae:
        begin, end = tl.load(starts + latent), tl.load(starts + latent + 1)
        pieces = (end - begin + limit - 1) // limit
        number = (piece - (tl.load(piece_ends + latent) - pieces)).to(tl.int32)
        first = begin + number * limit
        last = tl.minimum(first + limit, end)
        total = _gather(values, order, rows, x, first, last, at, d, BLOCK_E, BLOCK_D)
        tl.store(partial + piece * d + at, total, mask=at < d)


@jit
@no_type_check
def add_pieces(starts, owner, piece_ends, partial, out, d, d_sae, limit, BLOCK_D: tl.constexpr):
    """``out[f]``: the pieces of latent f, added in order by the program of the first of them."""
    piece = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    latent = tl.load(owner + piece)
    if latent < d_sae:
        count = tl.load(starts + latent + 1) - tl.load(starts + latent)
        pieces = (count + limit - 1) // limit
        if piece == tl.load(piece_ends + latent) - pieces:
            total = tl.zeros((BLOCK_D,), tl.float32)
            for j in range(pieces):
                total += tl.load(partial + (piece + j) * d + at, mask=at < d, other=0.0)
            tl.store(out + latent.to(tl.int64) * d + at, total, mask=at < d)


@jit
@no_type_check
def sum_latents(values, order, starts, out, entries, d_sae, BLOCK_E: tl.constexpr):
    """``out[m, f] = sum over entries e of latent f of values[m, e]``."""
    latent, m = tl.program_id(0), tl.program_id(1).to(tl.int64)
    last = tl.load(starts + latent + 1)
    total = tl.zeros((BLOCK_E,), tl.float32)
    for begin in range(tl.load(starts + latent), last, BLOCK_E):
        j = begin + tl.arange(0, BLOCK_E)
        listed = j < last
        entry = tl.load(order + j, mask=listed, other=0)
        total += tl.load(values + m * entries + entry, mask=listed, other=0.0).to(tl.float32)
    tl.store(out + m * d_sae + latent, tl.sum(total, 0))
