"""How the bundled translator is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lensbench.worlds.recipe import TrainConfig


class TranslateTrainConfig(TrainConfig):
    """Recipe of the translator (T5 architecture, tied embeddings).

    One thread. The learning rate falls in the second half.
    """

    rotary: ClassVar[bool] = False
    model: Literal["atlas-translate"] = "atlas-translate"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    world_seed: int = 0
    steps: int = Field(default=3_000, ge=1)
    out: Path = Path("runs/atlas-translate")
    n_layers: int = Field(default=6, ge=1)
    """Layers of the encoder."""
    n_decoder_layers: int = Field(default=2, ge=1)
    """Few, so that what takes several steps has to be done by the encoder."""
    d_model: int = Field(default=96, ge=8)
    d_mlp: int = Field(default=256, ge=8)
    rows: int = Field(default=128, ge=1)
    """Sentences per step."""
    muon_lr: float = Field(default=0.01, gt=0)
    adam_lr: float = Field(default=4e-3, gt=0)
    decay_steps: int = Field(default=1_500, ge=1)
    threads: int = Field(default=1, ge=1)

    def t5(self, d_vocab: int) -> dict[str, Any]:
        """Arguments of ``T5Config``; a translation starts with BOS and ends with EOS."""
        return {
            "vocab_size": d_vocab,
            "d_model": self.d_model,
            "d_kv": self.d_model // self.n_heads,
            "d_ff": self.d_mlp,
            "num_layers": self.n_layers,
            "num_decoder_layers": self.n_decoder_layers,
            "num_heads": self.n_heads,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 32,
            "dropout_rate": 0.0,
            "feed_forward_proj": "relu",
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "decoder_start_token_id": 2,
        }
