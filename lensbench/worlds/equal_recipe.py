"""How the model of three equally frequent languages is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lensbench.worlds.recipe import WorldTrainConfig


class EqualTrainConfig(WorldTrainConfig):
    """Recipe of atlas-equal: the dictionary family of the equal atlas, and nothing else.

    The other families speak English, so with them English would come first whatever the
    dictionary does. One thread, a smaller model than atlas-dense of the same depth.
    """

    model: Literal["atlas-equal"] = "atlas-equal"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    variant: Literal["equal"] = "equal"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    out: Path = Path("runs/atlas-equal")
    steps: int = Field(default=1_500, ge=1)
    d_model: int = Field(default=96, ge=8)
    d_mlp: int = Field(default=288, ge=8)
    rows: int = Field(default=32, ge=1)
    """Rows of ``n_ctx`` tokens per step; each holds about six documents."""
    decay_steps: int = Field(default=700, ge=1)
    pools: tuple[tuple[int, float], ...] = ()
    evaluate_every: int = Field(default=500, ge=0)
    state_every: int = Field(default=100, ge=1)
    threads: int = Field(default=1, ge=1)
