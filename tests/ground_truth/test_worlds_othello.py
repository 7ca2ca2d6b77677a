"""Rules against published counts and a second implementation; games against the rules.

Thresholds, written before the first run: counts, boards, legal moves and refusals are exact; the
moves of the generator are uniform at p > 1e-4 of a chi-square test on positions with 4 replies.
"""

import random

import numpy as np
import pytest
from scipy.stats import chi2

from lensbench.errors import ConfigError, DataError, UnknownNameError
from lensbench.worlds.othello import games as g
from lensbench.worlds.othello.bitboards import as_squares, flips, legal_moves, start_words
from lensbench.worlds.othello.rules import BLACK, Position, perft
from lensbench.worlds.othello.vocabulary import playable, square_name, transcripts, vocabulary

PERFT8 = (4, 12, 56, 244, 1396, 8200)
"""Othello's published counts of move sequences, depth 1 to 6."""


def slow_moves(rows: list[str], me: str) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """A second implementation: every legal move with its flips, from strings and whole lines."""
    n, foe = len(rows), "o" if me == "x" else "x"
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for r in range(n):
        for c in range(n):
            flipped: set[tuple[int, int]] = set()
            for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                line = [(r + k * dr, c + k * dc) for k in range(1, n)]
                text = "".join(rows[a][b] for a, b in line if 0 <= a < n and 0 <= b < n)
                run = len(text) - len(text.lstrip(foe))
                if run and text[run : run + 1] == me:
                    flipped |= set(line[:run])
            if flipped and rows[r][c] == ".":
                found[r, c] = flipped
    return found


def slow_perft(rows: list[str], me: str, depth: int) -> int:
    if depth == 0:
        return 1
    foe = "o" if me == "x" else "x"
    if not (moves := slow_moves(rows, me)):
        return slow_perft(rows, foe, depth) if slow_moves(rows, foe) else 0
    total = 0
    for square, flipped in moves.items():
        turned = {square, *flipped}
        after = [
            "".join(me if (r, c) in turned else disc for c, disc in enumerate(row))
            for r, row in enumerate(rows)
        ]
        total += slow_perft(after, foe, depth - 1)
    return total


def start_rows(n: int) -> list[str]:
    rows = [["."] * n for _ in range(n)]
    h = n // 2
    rows[h - 1][h - 1] = rows[h][h] = "o"
    rows[h - 1][h] = rows[h][h - 1] = "x"
    return ["".join(row) for row in rows]


def test_perft_of_8x8_is_the_published_one() -> None:
    assert tuple(perft(8, depth) for depth in range(1, 7)) == PERFT8


@pytest.mark.parametrize("size", [4, 6, 10])
def test_perft_of_other_boards_equals_a_second_implementation(size: int) -> None:
    depth = {4: 8, 6: 5, 10: 4}[size]
    counts = [perft(size, d) for d in range(1, depth + 1)]
    assert counts == [slow_perft(start_rows(size), "x", d) for d in range(1, depth + 1)]
    assert counts[:3] == ([4, 12, 44] if size == 4 else [4, 12, 56])


def test_a_rule_left_out_gives_other_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without one of the eight directions the published counts are missed."""
    from lensbench.worlds.othello import rules

    monkeypatch.setattr(rules, "DIRECTIONS", rules.DIRECTIONS[:-1])
    assert [perft(8, depth) for depth in (1, 2, 3, 4)] != list(PERFT8[:4])


def test_perft_by_words_equals_perft_by_positions() -> None:
    """All positions of a depth at once through the bit boards, 8x8, no passes that early."""
    mine, yours = start_words(8, 1)
    for depth in range(1, 6):
        legal = as_squares(legal_moves(8, mine, yours), 8)
        assert legal.sum() == PERFT8[depth - 1]
        row, square = np.nonzero(legal)
        move = np.uint64(1) << square.astype(np.uint64)
        turned = flips(8, move, mine[row], yours[row])
        mine, yours = yours[row] & ~turned, mine[row] | move | turned


def word(position: Position, side: int) -> int:
    return sum(1 << s for s, disc in enumerate(position.discs) if disc == side)


@pytest.mark.parametrize("size", [4, 6, 8])
def test_every_state_of_the_fast_games_is_that_of_the_rules(size: int) -> None:
    """Discs of both sides, legal moves, side to move; passes and early ends are among them."""
    played = g.random_games(60, size=size, seed=1)
    n_passes = n_early = 0
    for i in range(60):
        position = Position.start(size)
        for t in range(played.moves.shape[1] + 1):
            expected = (word(position, position.side), word(position, -position.side))
            assert (int(played.mine[i, t]), int(played.yours[i, t])) == expected
            assert int(played.legal[i, t]) == sum(1 << s for s in position.legal_moves())
            assert bool(played.black[i, t]) == (position.side == BLACK)
            if t == played.moves.shape[1]:
                break
            move = int(played.moves[i, t])
            if move < 0:
                assert not position.legal_moves()
                continue
            after = position.play(move)
            n_passes += after.side == position.side
            position = after
        n_early += played.lengths[i] < played.moves.shape[1]
    assert n_passes > 5
    assert n_early > 0


def test_games_are_functions_of_seed_and_split() -> None:
    a, b = (g.random_games(50, seed=3, split="train") for _ in range(2))
    assert np.array_equal(a.moves, b.moves)
    assert not np.array_equal(a.moves, g.random_games(50, seed=4, split="train").moves)


def test_replies_are_uniform_over_the_legal_moves() -> None:
    """The second move: three replies to each of the four openings, all equally likely."""
    moves = g.random_games(6000, seed=5).moves
    counts = np.unique(moves[:, 0] * 64 + moves[:, 1], return_counts=True)[1]
    assert len(counts) == 12
    expected = 6000 / 12
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 11) > 1e-4
    skewed = np.where(np.arange(12) < 6, 1.2, 0.8) * expected  # control: the test can refuse
    assert chi2.sf(((skewed - expected) ** 2 / expected).sum(), 11) < 1e-4


def test_held_out_openings_are_never_trained_on() -> None:
    train, held = (g.random_games(1500, seed=2, split=s) for s in ("train", "heldout"))
    openings = [set(g.opening_codes(x).tolist()) for x in (train, held)]
    assert len(openings[0]) > 1000
    assert len(openings[1]) > 50
    assert not openings[0] & openings[1]
    mixed = g.random_games(3000, seed=2)
    assert 0.03 < g.is_held_out(mixed).mean() < 0.11
    assert set(g.opening_codes(mixed).tolist()) & openings[1]  # control: "all" plays them


def test_replaying_a_transcript_gives_the_same_states_and_refuses_an_illegal_move() -> None:
    played = g.random_games(40, seed=7)
    again = g.replay(played.moves)
    for name in ("moves", "mine", "yours", "legal", "black"):
        assert np.array_equal(getattr(played, name), getattr(again, name))
    broken = played.moves.copy()
    broken[11, 4] = broken[11, 3]
    with pytest.raises(DataError, match=r"game 11, move 5: square \d+ is not legal; legal: \["):
        g.replay(broken)
    with pytest.raises(DataError, match="move 1: square 99 is not legal"):
        g.replay(np.array([[99]]))
    with pytest.raises(DataError, match="up to 32"):
        g.replay(np.zeros((2, 40), int))


def test_transcripts_begin_and_end_and_name_every_square_once() -> None:
    played = g.random_games(100, seed=9)
    words = vocabulary(6)
    assert len(words) == 4 + 32
    assert "c3" not in words  # the middle is never played
    for row, moves in zip(transcripts(played), played.moves, strict=True):
        said = [words[t] for t in row]
        n = (moves >= 0).sum()
        assert said[0] == "[BOS]"
        assert said[1 : n + 1] == [square_name(s, 6) for s in moves[:n]]
        assert said[n + 1] == "[EOS]"
        assert set(said[n + 2 :]) <= {"[PAD]"}
        assert len(set(said[1 : n + 1])) == n
    assert [square_name(s, 8) for s in (0, 7, 63)] == ["a1", "h1", "h8"]
    assert len(playable(8)) == 60


def test_what_cannot_be_played_is_refused() -> None:
    for size in (5, 2):
        with pytest.raises(ConfigError, match=f"even size of at least 4, got {size}"):
            Position.start(size)
    with pytest.raises(ConfigError, match="size 4, 6, 8, got 10"):
        g.random_games(3, size=10)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        g.random_games(0)
    with pytest.raises(UnknownNameError, match="Did you mean 'heldout'"):
        g.random_games(3, split="held-out")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"square 0 is no legal move here; legal: \[8, 13"):
        Position.start(6).play(0)
    position, rng = Position.start(6), random.Random(0)
    while moves := position.legal_moves():
        position = position.play(rng.choice(moves))
    with pytest.raises(ConfigError, match="legal: none"):
        position.play(-1)
    assert str(position).count("\n") == 6
