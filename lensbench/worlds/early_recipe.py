"""How the bundled model that can exit early is trained, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lensbench.worlds.layer_skip import LayerSkip
from lensbench.worlds.recipe import WorldTrainConfig


class EarlyTrainConfig(WorldTrainConfig):
    """Recipe of atlas-early: LayerSkip's continual training, from the weights of atlas-dense.

    Sizes, world and text are those of atlas-dense, other documents of it. One thread, no
    ``torch.compile``. A dropped layer is dropped for a whole row of documents.
    """

    model: Literal["atlas-early"] = "atlas-early"  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    start: str = "atlas-dense"
    """A bundled model of the atlas, or the folder of one; empty: random weights (then set
    ``layer_skip.from_scratch``, and ``pools`` as atlas-dense has them)."""
    seed: int = 1
    """Seed of the documents (those of atlas-dense had 0), and of random weights."""
    out: Path = Path("runs/atlas-early")
    steps: int = Field(default=1_500, ge=1)
    n_layers: int = Field(default=6, ge=2)
    rows: int = Field(default=48, ge=1)
    """Rows of ``n_ctx`` tokens per step; each holds about four documents."""
    warmup: int = Field(default=50, ge=0)
    decay_steps: int = Field(default=750, ge=1)
    pools: tuple[tuple[int, float], ...] = ()
    evaluate_every: int = Field(default=750, ge=0)
    state_every: int = Field(default=50, ge=1)
    threads: int = Field(default=1, ge=1)
    layer_skip: LayerSkip = LayerSkip(rotation=2, from_scratch=False)

    @model_validator(mode="after")
    def _starts_once(self) -> EarlyTrainConfig:
        if bool(self.start) == self.layer_skip.from_scratch:
            raise ValueError(
                f"start={self.start!r} with layer_skip.from_scratch={self.layer_skip.from_scratch}:"
                " dropout grows over the run (from_scratch) exactly where start is empty"
            )
        return self

    def is_flat(self, step: int) -> bool:
        """Whether a run of another length is still the same run.

        Dropout and a gradual curriculum grow with the share of the run that is done.
        """
        grows = self.layer_skip.from_scratch or self.layer_skip.curriculum == "gradual"
        return step == 0 if grows else super().is_flat(step)
