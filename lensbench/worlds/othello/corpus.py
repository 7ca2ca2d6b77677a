"""Labelled Othello games: the board of the side to move, at every token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from lensbench import io
from lensbench.errors import ConfigError
from lensbench.worlds.corpora import FOLDS, LabelledCorpus
from lensbench.worlds.othello.bitboards import as_squares
from lensbench.worlds.othello.games import (
    OPENING,
    Games,
    Split,
    hashed,
    is_held_out,
    opening_codes,
    random_games,
)
from lensbench.worlds.othello.scoring import legal_tokens
from lensbench.worlds.othello.vocabulary import EOS, PAD, square_name, transcripts, vocabulary


@dataclass(frozen=True, eq=False, repr=False)
class OthelloCorpus(LabelledCorpus):
    """Games as documents: BOS, the moves, EOS.

    Labels of a token are those of the position after it, as the side to move next sees it:
    ``mine c4`` and ``yours c4`` (kind ``contextual``), ``empty c4`` (kind ``history``: a square
    the transcript has not named), and ``plays edge``, ``plays corner`` of the move itself (kind
    ``lexical``). EOS comes after the game and carries none.
    """

    games: Games

    @classmethod
    def sample(
        cls, n_games: int, split: Split = "train", seed: int = 0, *, size: int = 6
    ) -> OthelloCorpus:
        """``n_games`` random games; see :func:`~lensbench.worlds.othello.games.random_games`.

        Raises:
            ConfigError: no games asked for, or a size that is not 4, 6 or 8.
            UnknownNameError: an unknown split.
        """
        games = random_games(n_games, size=size, seed=seed, split=split)
        tokens = transcripts(games)
        real = tokens != PAD
        return cls(
            tokens=tokens[real].astype(np.int32),
            offsets=np.r_[0, real.sum(1).cumsum()].astype(np.int64),
            vocab=vocabulary(size),
            labels=_labels(games, real),
            label_kinds=_kinds(size),
            spec={"world": "othello", "size": size, "split": split, "n_docs": n_games,
                  "seed": seed},
            games=games,
        )  # fmt: skip

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> OthelloCorpus:
        """The corpus that ``spec`` names, generated again."""
        if spec.get("world") != "othello":
            raise ConfigError(f"a corpus of world {spec.get('world')!r}, not of 'othello'")
        return cls.sample(spec["n_docs"], spec["split"], spec["seed"], size=spec["size"])

    @cached_property
    def legal(self) -> Bool[np.ndarray, "tokens d_vocab"]:
        """Tokens that may follow each token: legal moves, EOS once the game is over."""
        _, mask = legal_tokens(self.games)
        mask = np.concatenate([mask, np.zeros_like(mask[:, :1])], 1)
        mask[..., EOS] = np.arange(mask.shape[1]) == self.games.lengths[:, None]
        return mask[transcripts(self.games) != PAD]

    def held(self, doc_ids: Int[np.ndarray, " docs"]) -> tuple[Bool[np.ndarray, " docs"], str]:
        """Games only score whose opening the model was not trained on, else one opening in four."""
        some = self.games[doc_ids]
        if self.spec["split"] == "all":
            return is_held_out(some), (
                "scored on openings held out of the model's training, chosen on the others"
            )
        # The low bits dealt openings to the splits; these are others.
        held = (hashed(opening_codes(some)) >> np.uint64(8)) % np.uint64(FOLDS) == 0
        return held, (
            f"split {self.spec['split']!r} only: no opening of {OPENING} moves is on both sides; "
            f"1 in {FOLDS} scores"
        )


def _labels(
    games: Games, real: Bool[np.ndarray, "games pos"]
) -> dict[str, Bool[np.ndarray, " tokens"]]:
    size, (n, states) = games.size, games.legal.shape
    names = [square_name(s, size) for s in range(size * size)]
    mine, yours = as_squares(games.mine, size), as_squares(games.yours, size)
    boards = {"mine": mine, "yours": yours, "empty": ~(mine | yours)}
    labels: dict[str, np.ndarray] = {}
    after = np.zeros((n, states + 1), bool)  # one state per token, and EOS
    within = np.arange(states) <= games.lengths[:, None]
    for kind, board in boards.items():
        for s, name in enumerate(names):
            after[:, :-1] = board[..., s] & within
            labels[f"{kind} {name}"] = after[real]
    row, column = np.divmod(games.moves, size)
    at_row, at_column = (np.isin(x, (0, size - 1)) & (games.moves >= 0) for x in (row, column))
    for name, plays in (("edge", at_row | at_column), ("corner", at_row & at_column)):
        said = np.zeros_like(real)
        said[:, 1:-1] = plays
        labels[f"plays {name}"] = said[real]
    return labels


def _kinds(size: int) -> dict[str, str]:
    squares = [square_name(s, size) for s in range(size * size)]
    kinds = {"mine": "contextual", "yours": "contextual", "empty": "history"}
    board = {f"{what} {square}": kind for what, kind in kinds.items() for square in squares}
    return {**board, "plays edge": "lexical", "plays corner": "lexical"}


def write_jsonl(corpus: OthelloCorpus, path: str | Path) -> Path:
    """Write one JSON object per game atomically: id, text, discs of black and white at the end."""
    games, rows = corpus.games, list[str]()
    last = (np.arange(len(games)), games.lengths)
    mine, yours = (as_squares(x[last], games.size).sum(1) for x in (games.mine, games.yours))
    black = np.where(games.black[last], mine, yours)
    for i, text in enumerate(corpus.texts()):
        discs = {"black": int(black[i]), "white": int(mine[i] + yours[i] - black[i])}
        rows.append(json.dumps({"id": i, "text": text, **discs}))
    io.write_text(Path(path), "\n".join(rows) + "\n")
    return Path(path)
