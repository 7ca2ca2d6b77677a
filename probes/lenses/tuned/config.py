"""How a tuned lens is trained."""

from typing import Literal

from pydantic import Field, model_validator

from lensbench.config import Config

CHUNK = 2048
"""Rows that are in memory at a time."""


class TunedLensConfig(Config):
    """Settings of training; the defaults are those of Belrose et al. 2023, arXiv:2303.08112."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with Nesterov momentum at lr = lr_scale * (1 - momentum), or Adam (amsgrad) at 1e-3."""
    lr_scale: float = Field(1.0, gt=0)
    """Factor of the learning rate, which then falls in a straight line to 0."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov's, of SGD alone."""
    weight_decay: float = Field(1e-3, ge=0)
    """Towards the identity, which is the logit lens."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient of all layers together."""
    steps: int = Field(250, ge=1)
    """Updates of all layers' maps."""
    tokens_per_step: int = Field(1 << 18, ge=1)
    """Stored tokens whose gradients make one update."""
    holdout: float = Field(0.1, ge=0, lt=1)
    """Share of the documents, the last ones, that training never reads."""
    seed: int = Field(0, ge=0)
    """Of the order of the rows."""
    checkpoint_every: int = Field(25, ge=1)
    """Steps between checkpoints; a killed run goes on from the last one."""

    @model_validator(mode="after")
    def _whole_chunks(self) -> "TunedLensConfig":
        if self.tokens_per_step > CHUNK and self.tokens_per_step % CHUNK:
            raise ValueError(
                f"tokens_per_step must be at most {CHUNK} or a multiple of it, got "
                f"{self.tokens_per_step}"
            )
        return self

    @property
    def chunk(self) -> int:
        """Rows read at a time."""
        return min(CHUNK, self.tokens_per_step)

    def learning_rate(self, step: int) -> float:
        """At a step counted from 0: linear from its start to 0."""
        start = self.lr_scale * (1 - self.momentum if self.optimizer == "sgd" else 1e-3)
        return start * (1 - step / self.steps)
