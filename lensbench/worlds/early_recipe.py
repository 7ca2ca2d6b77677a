"""How the bundled model that can exit early is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lensbench.worlds.layer_skip import LayerSkip
from lensbench.worlds.recipe import WorldTrainConfig


class EarlyTrainConfig(WorldTrainConfig):
    """Recipe of atlas-early: atlas-dense's sizes, world and text, trained by LayerSkip.

    One thread, without ``torch.compile``, and three fifths of atlas-dense's text. A dropped layer
    is dropped for a whole row of documents.
    """

    model: Literal["atlas-early"] = "atlas-early"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    out: Path = Path("runs/atlas-early")
    steps: int = Field(default=2_400, ge=1)
    n_layers: int = Field(default=6, ge=2)
    rows: int = Field(default=48, ge=1)
    """Rows of ``n_ctx`` tokens per step; each holds about four documents."""
    state_every: int = Field(default=100, ge=1)
    threads: int = Field(default=1, ge=1)
    layer_skip: LayerSkip = LayerSkip(rotation=3)

    def is_flat(self, step: int) -> bool:
        """Whether a run of another length is still the same run.

        Dropout and a gradual curriculum grow with the share of the run that is done.
        """
        grows = self.layer_skip.from_scratch or self.layer_skip.curriculum == "gradual"
        return step == 0 if grows else super().is_flat(step)
