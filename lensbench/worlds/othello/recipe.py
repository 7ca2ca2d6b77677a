"""How the bundled Othello model is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lensbench.worlds.recipe import TrainConfig


class OthelloTrainConfig(TrainConfig):
    """Recipe of a model of Othello transcripts (GPT-2 architecture, tied embeddings)."""

    rotary: ClassVar[bool] = False
    model: Literal["othello"] = "othello"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    size: Literal[4, 6, 8] = 6
    """Squares along one side of the board."""
    steps: int = Field(default=4_000, ge=1)
    out: Path = Path("runs/othello")
    d_mlp: int = Field(default=512, ge=8)
    rows: int = Field(default=96, ge=1)
    """Games per step; no game is generated twice."""
    decay_steps: int = Field(default=4_000, ge=1)
    expected_from: int = Field(default=2_000, ge=0)
    """From this step on the target is the generator's own distribution, uniform over the legal
    moves, where before it was the move that was played: the same mean loss without the noise of
    the draw. Legal moves are then seen as targets, the board never. ``steps``: played moves alone.
    """

    def gpt2(self, d_vocab: int) -> dict[str, Any]:
        """Arguments of ``GPT2Config``; one position per square that can be played, BOS and EOS."""
        return {
            "vocab_size": d_vocab,
            "n_positions": self.size**2 - 2,
            "n_embd": self.d_model,
            "n_layer": self.n_layers,
            "n_head": self.n_heads,
            "n_inner": self.d_mlp,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
