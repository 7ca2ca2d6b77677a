"""Training on Othello: random games, never the board, through a GPT-2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from lensbench.worlds.atlas.tokenizer import save_tokenizer
from lensbench.worlds.othello.games import Games, random_games
from lensbench.worlds.othello.recipe import OthelloTrainConfig
from lensbench.worlds.othello.scoring import legal_tokens, legality
from lensbench.worlds.othello.vocabulary import EOS, PAD, transcripts, vocabulary

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
        games = self.games_at(step)
        tokens, targets = transcripts(games), self.targets(games, step)
        device = next(model.parameters()).device
        return self._loss(model, *(torch.from_numpy(x).to(device) for x in (tokens, targets)))

    def games_at(self, step: int) -> Games:
        """The games of one step, with openings of the training split only."""
        config = self.config
        seed = _TRAINING + config.seed * 100_000_000 + step
        return random_games(config.rows, size=config.size, seed=seed, split="train")

    def targets(self, games: Games, step: int) -> Float32[np.ndarray, "games states d_vocab"]:
        """What each state should predict; a row of zeros where a game is past its end."""
        if step < self.config.expected_from:
            following = transcripts(games)[:, 1:]
            said = np.eye(len(self.vocab), dtype=np.float32)[following]
            return said * (following != PAD)[..., None]
        alive, legal = legal_tokens(games)
        within = np.arange(alive.shape[1]) <= games.lengths[:, None]
        allowed = np.zeros((*alive.shape, len(self.vocab)), np.float32)
        allowed[..., : legal.shape[-1]] = legal
        allowed[..., EOS] = within & ~alive
        return allowed / np.maximum(allowed.sum(-1, keepdims=True), 1)

    def scores(self, model: Any) -> dict[str, float]:
        """Share of legal predictions on held-out games."""
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


def _loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean over states before the end of a game; padding comes after, where no target sees it."""
    seen = tokens[:, :-1]
    with torch.autocast(tokens.device.type, torch.bfloat16):
        out = model(input_ids=seen, attention_mask=torch.ones_like(seen), use_cache=False)
    return -(targets * out.logits.float().log_softmax(-1)).sum() / targets.sum()
