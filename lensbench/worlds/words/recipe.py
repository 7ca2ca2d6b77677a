"""How models of the words language are trained, as data."""

from __future__ import annotations

from math import cos, pi
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lensbench.worlds.layer_skip import LayerSkip
from lensbench.worlds.recipe import TrainConfig


class WordsTrainConfig(TrainConfig):
    """Recipe of a model of the words language (Llama architecture, tied embeddings).

    AdamW with a cosine learning rate on every parameter; ``plain`` leaves LayerSkip out.
    """

    model: Literal["words"] = "words"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    world_seed: int = 0
    out: Path = Path("runs/words")
    steps: int = Field(default=500, ge=1)
    n_layers: int = Field(default=8, ge=2)
    d_model: int = Field(default=96, ge=8)
    d_mlp: int = Field(default=256, ge=8)
    rows: int = Field(default=8, ge=1)
    width: int = Field(default=96, ge=8)
    """Tokens per row that are read, each predicting the next one; the model's context."""
    muon_lr: Literal[0] = 0  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """No Muon: AdamW moves every parameter."""
    decay_steps: Literal[0] = 0  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """The learning rate falls along a cosine from the end of the warm-up."""
    adam_lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    evaluate_every: int = Field(default=250, ge=0)
    state_every: int = Field(default=250, ge=1)
    threads: int = Field(default=1, ge=1)
    plain: bool = False
    """Train the last layer alone, without dropped layers."""
    layer_skip: LayerSkip = LayerSkip()

    def scale(self, step: int) -> float:
        """Learning-rate factor of ``step`` (from 0): warm-up, then half a cosine to 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + cos(pi * (step - self.warmup) / max(1, self.steps - self.warmup)))

    def is_flat(self, step: int) -> bool:
        """Whether a run of another length is still the same run: only before its first step."""
        return step == 0

    def llama(self, d_vocab: int) -> dict[str, Any]:
        """Arguments of ``LlamaConfig``; initial std 1 / sqrt(d_model)."""
        return {
            "vocab_size": d_vocab,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_mlp,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_heads,
            "max_position_embeddings": self.width,
            "tie_word_embeddings": True,
            "initializer_range": self.d_model**-0.5,
            "rope_theta": 10_000.0,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
