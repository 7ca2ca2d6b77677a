"""Legal moves and flips of many positions at once: one 64-bit word per board and colour.

Bit ``row * size + column`` of a word is a square. All eight directions are one array of shifts, so
that a step of many games takes a few dozen array operations however many games there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt64

from lensbench.errors import ConfigError
from lensbench.worlds.othello.rules import BLACK, DIRECTIONS, WHITE, Position

SIZES = (4, 6, 8)
"""Boards that fit a 64-bit word."""


@dataclass(frozen=True, eq=False)
class Shifts:
    """The eight one-square shifts of a board: four to higher squares, four to lower ones."""

    up: UInt64[np.ndarray, "4 1"]
    down: UInt64[np.ndarray, "4 1"]
    land: UInt64[np.ndarray, "8 1"]
    """Squares a shift may land on: none reached by leaving the board at one side."""
    reach: int
    """Discs that can lie between a move and the disc that closes the line."""

    def __call__(self, words: UInt64[np.ndarray, "8 n"]) -> UInt64[np.ndarray, "8 n"]:
        """Every board one square further in each direction."""
        moved = np.empty_like(words)
        np.left_shift(words[:4], self.up, out=moved[:4])
        np.right_shift(words[4:], self.down, out=moved[4:])
        moved &= self.land
        return moved

    def runs(
        self, words: UInt64[np.ndarray, " n"], through: UInt64[np.ndarray, " n"]
    ) -> UInt64[np.ndarray, "8 n"]:
        """Unbroken runs of ``through`` that begin beside ``words``, per direction."""
        found = self(np.broadcast_to(words, (8, len(words)))) & through
        for _ in range(self.reach - 1):
            found |= self(found) & through
        return found


@lru_cache
def shifts_of(size: int) -> Shifts:
    """The shifts of one board size.

    Raises:
        ConfigError: a size that does not fit.
    """
    check_size(size)
    up = [d for d in DIRECTIONS if d[0] * size + d[1] > 0]
    down = [(-dr, -dc) for dr, dc in up]
    amounts = np.array([[dr * size + dc] for dr, dc in up], np.uint64)
    land = np.array([[_landing(size, dc)] for _, dc in (*up, *down)], np.uint64)
    return Shifts(amounts, amounts, land, size - 2)


def check_size(size: int) -> None:
    """Refuse a board that does not fit a word."""
    if size not in SIZES:
        raise ConfigError(
            f"games in bulk are played on boards of size {', '.join(map(str, SIZES))}, got {size}; "
            "rules.Position plays any even size"
        )


def _landing(size: int, dc: int) -> int:
    inside = [c for c in range(size) if 0 <= c - dc < size]
    return sum(1 << (row * size + col) for row in range(size) for col in inside)


def legal_moves(
    size: int, own: UInt64[np.ndarray, " n"], other: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """Squares the owner of ``own`` may move to."""
    shift = shifts_of(size)
    closing = np.bitwise_or.reduce(shift(shift.runs(own, other)), axis=0)
    return closing & ~(own | other)


def flips(
    size: int,
    move: UInt64[np.ndarray, " n"],
    own: UInt64[np.ndarray, " n"],
    other: UInt64[np.ndarray, " n"],
) -> UInt64[np.ndarray, " n"]:
    """Discs turned over by ``move`` (one bit per board, or none)."""
    shift = shifts_of(size)
    runs = shift.runs(move, other)
    closed = (shift(runs) & own) != 0
    return np.bitwise_or.reduce(np.where(closed, runs, np.uint64(0)), axis=0)


def start_words(size: int, n: int) -> tuple[UInt64[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
    """Black and white of ``n`` boards at the start."""
    discs = Position.start(size).discs
    black, white = (
        sum(1 << s for s, disc in enumerate(discs) if disc == side) for side in (BLACK, WHITE)
    )
    return np.full(n, black, np.uint64), np.full(n, white, np.uint64)


def as_squares(words: UInt64[np.ndarray, "*n"], size: int) -> Bool[np.ndarray, "*n squares"]:
    """One bool per square."""
    return (words[..., None] >> np.arange(size * size, dtype=np.uint64)) & np.uint64(1) != 0
