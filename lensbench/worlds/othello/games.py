"""Othello games by the thousand: uniformly random legal moves, or transcripts played again.

1. All games move together, one move per step; a side without a move is passed over.
2. After every move the discs and the legal moves are kept, as words of one bit per square.
3. Openings are dealt to training or kept from it by a hash of their first six moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt64

from lensbench.errors import ConfigError, DataError, UnknownNameError
from lensbench.worlds.othello.bitboards import (
    as_squares,
    check_size,
    flips,
    legal_moves,
    start_words,
)

Split = Literal["train", "heldout", "all"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "all")
OPENING = 6
"""Moves that decide whether a game may be trained on."""
_ONE_IN = 16
_BLOCK = 4096

Words = UInt64[np.ndarray, "games states"]
Chooser = Callable[[int, Bool[np.ndarray, "games squares"]], Int[np.ndarray, " games"]]


@dataclass(frozen=True, eq=False)
class Games:
    """Games side by side; state ``t`` is the position after ``t`` moves, state 0 the start."""

    size: int
    moves: Int[np.ndarray, "games plies"]
    """Square of every move, -1 after the last."""
    mine: Words
    """Discs of the side to move. Once the game is over: of the side that did not move last."""
    yours: Words
    legal: Words
    """Moves open to the side to move; none once the game is over."""
    black: Bool[np.ndarray, "games states"]
    """Is black the side to move?"""

    @property
    def lengths(self) -> Int[np.ndarray, " games"]:
        """Moves of every game."""
        return (self.moves >= 0).sum(1)

    def __len__(self) -> int:
        """Number of games."""
        return len(self.moves)

    def __getitem__(
        self, rows: Bool[np.ndarray, " games"] | Int[np.ndarray, " some"] | slice
    ) -> Games:
        """Some of the games."""
        kept = (x[rows] for x in (self.moves, self.mine, self.yours, self.legal, self.black))
        return Games(self.size, *kept)


def random_games(n: int, *, size: int = 6, seed: int = 0, split: Split = "all") -> Games:
    """``n`` games of uniformly random legal moves; a function of its arguments.

    One opening in 16 (of ``OPENING`` moves) is held out: ``split="train"`` never plays it,
    ``"heldout"`` plays nothing else.

    Raises:
        ConfigError: no games asked for, or a size that is not 4, 6 or 8.
        UnknownNameError: an unknown split.
    """
    if n < 1:
        raise ConfigError(f"n must be at least 1, got {n}")
    if split not in SPLITS:
        raise UnknownNameError("split", split, known=SPLITS)
    check_size(size)
    blocks, have = list[Games](), 0
    for block in _stream(size, seed, min(n if split != "heldout" else n * _ONE_IN, _BLOCK)):
        kept = block if split == "all" else block[is_held_out(block) == (split == "heldout")]
        blocks.append(kept[: n - have])
        have += len(blocks[-1])
        if have == n:
            return _joined(blocks)
    raise AssertionError("the stream of games has no end")


def _stream(size: int, seed: int, block: int) -> Iterator[Games]:
    rng = np.random.default_rng(seed)

    def choose(_: int, legal: Bool[np.ndarray, "games squares"]) -> Int[np.ndarray, " games"]:
        """The k-th legal square, k uniform."""
        upto = legal.cumsum(1, dtype=np.int8)
        k = (rng.random(len(legal)) * upto[:, -1]).astype(np.int8)
        return np.where(upto[:, -1] > 0, (upto > k[:, None]).argmax(1), -1)

    while True:
        yield _play(size, block, choose)


def replay(moves: Int[np.ndarray, "games plies"], *, size: int = 6) -> Games:
    """Transcripts played again: squares, -1 after the last move of a game that ends early.

    A game may stop before it is over; its states after the last move repeat the last one.

    Raises:
        DataError: an illegal move; game, move and square are named.
    """
    check_size(size)
    given = np.asarray(moves)
    plies = size * size - 4
    if given.ndim != 2 or given.shape[1] > plies:
        raise DataError(f"moves must be [games, up to {plies}], got {list(given.shape)}")

    def choose(t: int, legal: Bool[np.ndarray, "games squares"]) -> Int[np.ndarray, " games"]:
        square = given[:, t] if t < given.shape[1] else np.full(len(given), -1)
        inside = (square >= 0) & (square < size * size)
        fine = (square == -1) | (inside & legal[np.arange(len(legal)), np.where(inside, square, 0)])
        if not fine.all():
            game = int(np.flatnonzero(~fine)[0])
            raise DataError(
                f"game {game}, move {t + 1}: square {square[game]} is not legal; legal: "
                f"{np.flatnonzero(legal[game]).tolist() or 'none, the game is over'}"
            )
        return square

    return _play(size, len(given), choose)


def _play(size: int, n: int, choose: Chooser) -> Games:
    plies = size * size - 4
    mine, yours = start_words(size, n)
    black, legal = np.ones(n, bool), legal_moves(size, mine, yours)
    states = [(mine, yours, legal, black)]
    moves = np.full((n, plies), -1, np.int16)
    for t in range(plies):
        square = choose(t, as_squares(legal, size))
        moves[:, t] = square
        moved = square >= 0
        move = np.where(moved, np.uint64(1) << np.maximum(square, 0).astype(np.uint64), 0)
        move = move.astype(np.uint64)
        turned = flips(size, move, mine, yours)
        own, other = mine | move | turned, yours & ~turned
        mine, yours = np.where(moved, other, mine), np.where(moved, own, yours)
        black, legal = black ^ moved, legal_moves(size, mine, yours)
        if (stuck := legal == 0).any():
            back = legal_moves(size, yours, mine)
            passes = stuck & moved & (back != 0)
            mine, yours = np.where(passes, yours, mine), np.where(passes, mine, yours)
            legal, black = np.where(passes, back, legal), black ^ passes
        states.append((mine, yours, legal, black))
    return Games(size, moves, *(np.stack(column, 1) for column in zip(*states, strict=True)))


def _joined(blocks: list[Games]) -> Games:
    columns = [(b.moves, b.mine, b.yours, b.legal, b.black) for b in blocks]
    joined = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Games(blocks[0].size, *joined)


def opening_codes(games: Games) -> UInt64[np.ndarray, " games"]:
    """One number per opening: the first six moves in base 64."""
    first = games.moves[:, :OPENING].astype(np.int64) & 63
    return (first << (6 * np.arange(first.shape[1]))).sum(1).astype(np.uint64)


def is_held_out(games: Games) -> Bool[np.ndarray, " games"]:
    """Games whose opening training never plays: one opening in 16, by a multiplicative hash."""
    return hashed(opening_codes(games)) % np.uint64(_ONE_IN) == 0


def hashed(codes: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The upper half of codes times 2^64 / golden ratio: near codes end far apart."""
    return (codes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
