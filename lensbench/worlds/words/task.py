"""Training on the words language: rows of symbols through a Llama, with LayerSkip or without."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lensbench.worlds.layer_skip import exit_weights, kept_layers
from lensbench.worlds.layer_skip_loss import layer_skip_loss
from lensbench.worlds.words.language import Words
from lensbench.worlds.words.recipe import WordsTrainConfig

_TRAINING = 10**12
"""Seeds of training steps begin here, so that a corpus of a small seed is no training data."""


class WordsTask:
    """The :class:`~lensbench.worlds.task.Task` of the words language."""

    def __init__(self, config: WordsTrainConfig) -> None:
        self.config = config
        self.world = Words(config.world_seed)
        spelt = ("".join(self.world.vocab[i] for i in word) for word in self.world.words)
        self.speaks = " ".join((*self.world.vocab, *spelt))

    def new_model(self) -> Any:
        """A freshly initialised ``LlamaForCausalLM``."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(self.config.seed)
        settings: dict[str, Any] = {
            **self.config.llama(self.world.d_vocab),
            "attn_implementation": "eager",
        }
        return LlamaForCausalLM(LlamaConfig(**settings))

    def loss(self, model: Any, step: int) -> Tensor:
        """Weighted losses of the exits of ``step``; plain: of the last layer, none dropped."""
        config = self.config
        rows = torch.from_numpy(self.rows_at(step)).to(next(model.parameters()).device)
        weights = np.eye(config.n_layers)[-1]
        kept = np.ones((config.n_layers, config.rows), bool)
        if not config.plain:
            sizes = (config.layer_skip, config.n_layers)
            weights = exit_weights(*sizes, step, config.steps)
            kept = kept_layers(*sizes, config.rows, step, config.steps, seed=config.seed)
        width = config.width
        mask = torch.ones(width, width, dtype=torch.bool, device=rows.device).tril()
        return layer_skip_loss(
            model, rows[:, :-1], rows[:, 1:], weights=weights, kept=kept,
            positions=torch.arange(width, device=rows.device).expand(len(rows), -1),
            mask=mask.expand(len(rows), 1, -1, -1),
        )  # fmt: skip

    def rows_at(self, step: int) -> Int[np.ndarray, "rows tokens"]:
        """BOS and symbols of one step, a function of recipe and step; one token more than read."""
        config = self.config
        rng = Random(f"words|{_TRAINING + config.seed * 100_000_000 + step}")
        rows = [self.world.document(config.width + 1, rng) for _ in range(config.rows)]
        return np.array(rows, np.int64)

    def scores(self, model: Any) -> dict[str, float]:
        """Loss of the last layer beside the exact floor, and agreement of every exit with it."""
        from lensbench.worlds.words.scoring import quick_scores

        return quick_scores(self.world, model, width=self.config.width)

    def save_tokenizer(self, folder: Path) -> Path:
        """A word per symbol."""
        return self.world.save_tokenizer(folder)

    def write_card(self, folder: Path) -> Path:
        """Figures of :mod:`lensbench.worlds.words.card`."""
        from lensbench.worlds.words.card import write_card

        return write_card(folder)
