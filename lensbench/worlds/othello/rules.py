"""The rules of Othello on a square board of any even size, one readable position at a time.

For many games at once use :mod:`lensbench.worlds.othello.games`, which is checked against this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from lensbench.errors import ConfigError

DIRECTIONS = tuple((dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0))
BLACK, WHITE, EMPTY = 1, -1, 0


@dataclass(frozen=True)
class Position:
    """Discs on the board and whose turn it is; square ``s`` is row ``s // size`` of column rest."""

    size: int
    discs: tuple[int, ...]
    """Per square: 1 black, -1 white, 0 empty."""
    side: int
    """1: black moves next, -1: white. After the last move: the side that did not make it."""

    @classmethod
    def start(cls, size: int = 8) -> Position:
        """Four discs in the middle, white on the main diagonal; black moves first.

        Raises:
            ConfigError: a size that is odd or below 4.
        """
        if size < 4 or size % 2:
            raise ConfigError(f"an Othello board has an even size of at least 4, got {size}")
        discs, half = [EMPTY] * (size * size), size // 2
        for row in (half - 1, half):
            for col in (half - 1, half):
                discs[row * size + col] = WHITE if row == col else BLACK
        return cls(size, tuple(discs), BLACK)

    def flips(self, square: int) -> list[int]:
        """Discs that a move of ``side`` to ``square`` turns over; empty: the move is illegal."""
        if self.discs[square] != EMPTY:
            return []
        turned: list[int] = []
        for dr, dc in DIRECTIONS:
            row, col = divmod(square, self.size)
            line: list[int] = []
            while True:
                row, col = row + dr, col + dc
                if not (0 <= row < self.size and 0 <= col < self.size):
                    break
                disc = self.discs[row * self.size + col]
                if disc == self.side:
                    turned += line
                    break
                if disc == EMPTY:
                    break
                line.append(row * self.size + col)
        return turned

    def legal_moves(self) -> list[int]:
        """Squares ``side`` may move to, ascending; empty once the game is over."""
        return list(self._legal)

    @cached_property
    def _legal(self) -> tuple[int, ...]:
        return tuple(s for s in range(self.size * self.size) if self.flips(s))

    def play(self, square: int) -> Position:
        """The position after a move; a side without a move is passed over.

        Raises:
            ConfigError: the move is not legal.
        """
        turned = self.flips(square) if 0 <= square < len(self.discs) else []
        if not turned:
            raise ConfigError(
                f"square {square} is no legal move here; legal: {self.legal_moves() or 'none'}"
            )
        discs = list(self.discs)
        for s in (square, *turned):
            discs[s] = self.side
        after = replace(self, discs=tuple(discs), side=-self.side)
        if after.legal_moves():
            return after
        passed = replace(after, side=self.side)
        return passed if passed.legal_moves() else after

    def __str__(self) -> str:
        """The board as text: X black, O white, and the side to move."""
        rows = [self.discs[r : r + self.size] for r in range(0, len(self.discs), self.size)]
        board = "\n".join(" ".join(".XO"[d] for d in row) for row in rows)
        return f"{board}\n{'black' if self.side == BLACK else 'white'} to move"


def perft(size: int, depth: int) -> int:
    """Number of move sequences of ``depth`` moves from the start; a pass is no move of its own.

    8x8, depth 1 to 7: 4, 12, 56, 244, 1396, 8200, 55092.
    """
    return _count(Position.start(size), depth)


def _count(position: Position, depth: int) -> int:
    moves = position.legal_moves()
    if depth <= 1:
        return len(moves) if depth else 1
    return sum(_count(position.play(move), depth - 1) for move in moves)
