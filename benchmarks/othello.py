"""Random Othello games: many at once in 64-bit words, against one position at a time.

``python -m benchmarks.othello [--games 1024] [--rounds 3]``. Both play uniformly random legal moves
and keep the legal moves and both colours of every state, each found once. There is no peer: the
other side is the readable implementation (``rules.Position``) that the fast one is tested against.
"""

import argparse
import random

from benchmarks.harness import Page, interleave, threads
from lensbench.worlds.othello.games import random_games
from lensbench.worlds.othello.rules import Position


def plain_games(n: int, size: int, seed: int) -> list[list[tuple[Position, list[int]]]]:
    """``n`` games, every state with its legal moves."""
    rng = random.Random(seed)
    played: list[list[tuple[Position, list[int]]]] = []
    for _ in range(n):
        position = Position.start(size)
        states = [(position, position.legal_moves())]
        while moves := states[-1][1]:
            position = position.play(rng.choice(moves))
            states.append((position, position.legal_moves()))
        played.append(states)
    return played


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    threads(1)
    page = Page("othello", "Random Othello games", ("numpy",))
    page.text(__doc__ or "")
    for size in (6, 8):
        cases = {
            "words": lambda size=size: random_games(args.games, size=size, seed=1),
            "positions": lambda size=size: plain_games(args.games, size, 1),
        }
        times = interleave(cases, rounds=args.rounds, warmup=1)
        page.heading(f"{size}x{size}, {args.games} games")
        page.table(times.table("words"))
        page.claim("positions / words", times.ratio("positions", "words").median, 10, at_most=False)
    page.write()


if __name__ == "__main__":
    main()
