"""Training batches of a world: documents packed into rows that share no context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lensbench.worlds.atlas import Atlas
from lensbench.worlds.atlas.world import BOS

IGNORE = -100
_OPEN_ROWS = 24


@dataclass(frozen=True)
class Batch:
    """Packed rows; ``segments`` says which tokens may attend to each other (0 is padding)."""

    tokens: np.ndarray
    """int64 [rows, width]"""
    targets: np.ndarray
    """int64 [rows, width]: the next token of the same document, or ``IGNORE``."""
    positions: np.ndarray
    """int64 [rows, width]: position inside the document."""
    segments: np.ndarray
    """int64 [rows, width]: 1, 2, ... per document of a row."""

    def mask(self) -> np.ndarray:
        """Bool [rows, 1, width, width]: query may see key (same document, not later)."""
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return (same & np.tri(self.tokens.shape[1], dtype=bool))[:, None]


def pack(documents: Iterator[Sequence[int]], rows: int, width: int) -> Batch:
    """Fill ``rows`` rows of ``width`` tokens from ``documents``, first row that fits.

    A document that fits no open row is dropped; its length decides, never its content, and
    documents are drawn independently, so short ones gain at most a few per cent.
    """
    tokens = np.zeros((rows, width), dtype=np.int64)
    targets = np.full((rows, width), IGNORE, dtype=np.int64)
    positions = np.zeros((rows, width), dtype=np.int64)
    segments = np.zeros((rows, width), dtype=np.int64)
    used = [0] * rows
    count = [0] * rows
    first, misses = 0, 0
    while misses < 8:
        ids = next(documents)
        n = len(ids)
        row = next(
            (r for r in range(first, min(rows, first + _OPEN_ROWS)) if used[r] + n <= width), -1
        )
        if row < 0:
            if first + _OPEN_ROWS >= rows:
                misses += 1
            else:
                first += 1
            continue
        at = used[row]
        count[row] += 1
        tokens[row, at : at + n] = ids
        targets[row, at : at + n - 1] = ids[1:]
        positions[row, at : at + n] = np.arange(n)
        segments[row, at : at + n] = count[row]
        used[row] += n
    return Batch(tokens, targets, positions, segments)


def batch_at(
    world: Atlas,
    step: int,
    *,
    seed: int,
    rows: int,
    width: int,
    pool: float = 1.0,
    family: str = "",
) -> Batch:
    """The batch of one training step: a function of its arguments, so that runs resume exactly."""
    index, bos = world.index, world.index[BOS]
    spoken = world.documents("train", seed * 100_000_000 + step, pool=pool, family=family)
    return pack(([bos, *(index[w] for w in words)] for _, words in spoken), rows, width)
