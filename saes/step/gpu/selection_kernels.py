"""Triton kernels that select; :mod:`lensbench.saes.step.gpu.select` launches them.

Only what is above zero can fire, so numbers are compared as the bits of their positive part, which
sort like integers (``key``); NaN is above all, as in ``torch.topk``, so that it is noticed. Equal
keys are taken in order of columns, which makes every selection reproducible.
"""

# pyright: basic
# Triton has no type stubs, and its language gives other meanings to Python's operators.

from typing import Any, no_type_check

import triton
import triton.language as tl

jit: Any = triton.jit  # what it says it returns knows no launch options, such as num_warps


@jit
@no_type_check
def _key(value, SHIFT: tl.constexpr):
    """Integers from 0 that sort like the positive part; bfloat16 has ``SHIFT`` empty bits."""
    value = value.to(tl.float32)
    bits = value.to(tl.int32, bitcast=True)
    bits = tl.where(value != value, 0x7F810000, tl.maximum(bits, 0))
    return bits >> SHIFT


@jit
@no_type_check
def _positive(value):
    return tl.where(value < 0, 0.0, value)  # keeps NaN, which tl.maximum would drop


@jit
@no_type_check
def _cut(keys, k, low, high):
    """The largest key, from ``low`` to ``high``, that at least ``k`` of ``keys`` reach."""
    while low < high:
        middle = low + (high - low + 1) // 2
        enough = tl.sum((keys >= middle).to(tl.int32), 0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@jit
@no_type_check
def _count(x, n, least, BLOCK: tl.constexpr, SHIFT: tl.constexpr):
    """Entries of a row whose key is at least ``least``, which is above 0."""
    found = tl.zeros((BLOCK,), tl.int32)
    for at in range(0, n, BLOCK):
        column = at + tl.arange(0, BLOCK)
        found += (_key(tl.load(x + column, mask=column < n, other=0.0), SHIFT) >= least).to(
            tl.int32
        )
    return tl.sum(found, 0)


@jit
@no_type_check
def _write(x, values, columns, written, n, cut, ties, BLOCK: tl.constexpr, SHIFT: tl.constexpr):
    """Entries of a row above ``cut`` and the first ``ties`` that equal it, in order of columns."""
    equal_before = written * 0
    for at in range(0, n, BLOCK):
        column = at + tl.arange(0, BLOCK)
        inside = column < n
        value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
        key = tl.where(inside, _key(value, SHIFT), -1)
        equal = (key == cut).to(tl.int32)
        rank = equal_before + tl.cumsum(equal, 0) - equal
        keep = ((key > cut) | ((equal > 0) & (rank < ties))).to(tl.int32)
        place = written + tl.cumsum(keep, 0) - keep
        tl.store(values + place, _positive(value), mask=keep > 0)
        tl.store(columns + place, column, mask=keep > 0)
        equal_before += tl.sum(equal, 0)
        written += tl.sum(keep, 0)


@jit
@no_type_check
def row_top_k(
    x,
    values,
    columns,
    scratch,
    n,
    k,
    BLOCK: tl.constexpr,
    ROOM: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """The ``k`` largest entries of a row of ``n``, those below zero as zero.

    1. The largest entry of each of ``BLOCK`` groups of columns; the k-th largest of those is at
       most the k-th largest entry.
    2. List the columns that reach it: few, unless the largest entries crowd into few groups.
    3. Find the cut among them, or, if they were more than there is room for, in the whole row.
    4. Where fewer than k are positive, the rest are zeros, at columns that differ from row to row.
    """
    row = tl.program_id(0).to(tl.int64)
    x += row * n
    values += row * k
    columns += row * k
    scratch += row * ROOM
    largest = tl.zeros((BLOCK,), tl.int32)
    for at in range(0, n, BLOCK):
        column = at + tl.arange(0, BLOCK)
        key = _key(tl.load(x + column, mask=column < n, other=0.0), SHIFT)
        largest = tl.maximum(largest, key)
    top = tl.max(largest, 0)
    floor = tl.maximum(_cut(largest, k, top * 0, top), 1)

    found = top * 0
    for at in range(0, n, BLOCK):
        column = at + tl.arange(0, BLOCK)
        key = _key(tl.load(x + column, mask=column < n, other=0.0), SHIFT)
        hit = (key >= floor).to(tl.int32)
        place = found + tl.cumsum(hit, 0) - hit
        tl.store(scratch + place, column, mask=(hit > 0) & (place < ROOM))
        found += tl.sum(hit, 0)
    tl.debug_barrier()  # the list was written by other threads of this program

    if found <= ROOM:
        slot = tl.arange(0, ROOM)
        column = tl.load(scratch + slot, mask=slot < found, other=0)
        value = tl.load(x + column, mask=slot < found, other=0.0).to(tl.float32)
        key = tl.where(slot < found, _key(value, SHIFT), -1)
        wanted = tl.minimum(found, k)
        cut = _cut(key, wanted, floor, tl.maximum(top, floor))
        equal = (key == cut).to(tl.int32)
        ties = wanted - tl.sum((key > cut).to(tl.int32), 0)
        keep = (key > cut) | ((equal > 0) & (tl.cumsum(equal, 0) <= ties))
        place = tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(values + place, _positive(value), mask=keep)
        tl.store(columns + place, column, mask=keep)
        rest = (slot >= wanted) & (slot < k)
        tl.store(values + slot, tl.zeros((ROOM,), tl.float32), mask=rest)
        tl.store(columns + slot, ((row * k + slot) % n).to(tl.int32), mask=rest)
    else:
        low, high = floor, top
        while low < high:
            middle = low + (high - low + 1) // 2
            enough = _count(x, n, middle, BLOCK, SHIFT) >= k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
        ties = k - _count(x, n, low + 1, BLOCK, SHIFT)
        _write(x, values, columns, top * 0, n, low, ties, BLOCK, SHIFT)


@jit
@no_type_check
def histogram(
    x,
    prefix,
    table,
    total,
    rounds,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Count the values of bits ``BELOW .. ABOVE - 1`` of the keys whose higher bits are ``prefix``.

    Keys of zero are not counted. Every program writes a row of ``table``.
    """
    program = tl.program_id(0).to(tl.int64)
    wanted = tl.load(prefix)
    counts = tl.zeros((BINS,), tl.int32)
    for turn in range(rounds):
        at = (program * rounds + turn) * BLOCK + tl.arange(0, BLOCK)
        key = _key(tl.load(x + at, mask=at < total, other=0.0), SHIFT)
        mine = (key > 0) & ((key >> ABOVE) == wanted)
        counts += tl.histogram((key >> BELOW) & (BINS - 1), BINS, mask=mine)
    tl.store(table + program * BINS + tl.arange(0, BINS), counts)


@jit
@no_type_check
def row_counts(x, cut, above, equal, n, BLOCK: tl.constexpr, SHIFT: tl.constexpr):
    """How many entries of a row are above the cut, and how many equal it."""
    row = tl.program_id(0).to(tl.int64)
    threshold = tl.load(cut)
    greater = tl.zeros((BLOCK,), tl.int32)
    same = tl.zeros((BLOCK,), tl.int32)
    for at in range(0, n, BLOCK):
        column = at + tl.arange(0, BLOCK)
        inside = column < n
        key = _key(tl.load(x + row * n + column, mask=inside, other=0.0), SHIFT)
        key = tl.where(inside, key, -1)
        greater += (key > threshold).to(tl.int32)
        same += (key == threshold).to(tl.int32)
    tl.store(above + row, tl.sum(greater, 0))
    tl.store(equal + row, tl.sum(same, 0))


@jit
@no_type_check
def write_rows(x, cut, ties, starts, values, columns, n, BLOCK: tl.constexpr, SHIFT: tl.constexpr):
    """Of every row, the entries above the cut and its share of those that equal it."""
    row = tl.program_id(0).to(tl.int64)
    start, cut_here, allowed = tl.load(starts + row), tl.load(cut), tl.load(ties + row)
    _write(x + row * n, values, columns, start, n, cut_here, allowed, BLOCK, SHIFT)
