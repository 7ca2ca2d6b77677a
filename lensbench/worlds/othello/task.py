"""Training on Othello: transcripts of random games, never the board, through a GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lensbench.worlds.atlas.tokenizer import save_tokenizer
from lensbench.worlds.batches import IGNORE
from lensbench.worlds.othello.games import random_games
from lensbench.worlds.othello.recipe import OthelloTrainConfig
from lensbench.worlds.othello.vocabulary import PAD, transcripts, vocabulary

_TRAINING = 10**12
"""Seeds of training steps begin here, so that a corpus of a small seed is no training data."""


class OthelloTask:
    """The :class:`~lensbench.worlds.task.Task` of Othello."""

    def __init__(self, config: OthelloTrainConfig) -> None:
        self.config = config
        self.vocab = vocabulary(config.size)
        self.speaks = " ".join(self.vocab)
        self._loss = torch.compile(_loss) if config.compile else _loss

    def new_model(self) -> Any:
        """A freshly initialised ``GPT2LMHeadModel``."""
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(self.config.seed)
        settings: dict[str, Any] = {
            **self.config.gpt2(len(self.vocab)),
            "attn_implementation": "eager",
        }
        return GPT2LMHeadModel(GPT2Config(**settings))

    def loss(self, model: Any, step: int) -> Tensor:
        """Cross entropy of the next move, and of EOS where the game is over."""
        tokens = torch.from_numpy(self.batch_at(step)).to(next(model.parameters()).device)
        return self._loss(model, tokens)

    def batch_at(self, step: int) -> np.ndarray:
        """Transcripts ``[rows, plies + 2]`` of one step, openings of the training split only."""
        config = self.config
        seed = _TRAINING + config.seed * 100_000_000 + step
        games = random_games(config.rows, size=config.size, seed=seed, split="train")
        return transcripts(games)

    def scores(self, model: Any) -> dict[str, float]:
        """Share of legal predictions on held-out games."""
        from lensbench.worlds.othello.scoring import legality

        games = random_games(200, size=self.config.size, seed=1, split="heldout")
        found = legality(model, games)
        return {"legal_top1": found.top1.mean, "legal_mass": found.mass.mean}

    def save_tokenizer(self, folder: Path) -> Path:
        """A word per square."""
        return save_tokenizer(self.vocab, folder)

    def write_card(self, folder: Path) -> Path:
        """Figures of :mod:`lensbench.worlds.othello.card`."""
        from lensbench.worlds.othello.card import write_card

        return write_card(folder)


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    targets = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD, IGNORE)
    # Padding follows the last token of a game, where no query of a target can see it.
    with torch.autocast(tokens.device.type, torch.bfloat16):
        seen = tokens[:, :-1]
        out = model(input_ids=seen, attention_mask=torch.ones_like(seen), use_cache=False)
    return nn.functional.cross_entropy(
        out.logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE
    )
