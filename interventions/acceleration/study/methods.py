"""What the study asks of every method, and what it gets: one small adapter per method.

An adapter is a frozen value whose fields are its configuration. ``predict`` reads the evidence of a
store and runs nothing; ``live`` decodes one prompt. The registry of all of them is in ``registry``.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from lensbench.interventions.acceleration.decoding import Decoded
from lensbench.interventions.acceleration.study.cost import LayerCosts
from lensbench.interventions.acceleration.study.layer_times import LayerTimes
from lensbench.interventions.acceleration.study.lens_table import LensTable
from lensbench.interventions.acceleration.study.similarity import SimilarityTable
from lensbench.interventions.acceleration.study.simulate_kangaroo import Drafts
from lensbench.interventions.acceleration.study.trace import ExitTrace, Trace
from lensbench.interventions.acceleration.study.work import Work
from lensbench.models.base import Model
from lensbench.tokens import TokensLike

PredictionClass = Literal["identical", "bounded", "one-pass", "calibrated", "proxy"]
"""What a live run may be held to.

``identical``: the same integers, ties apart. ``bounded``: accepted tokens the same, drafted ones
between two bounds. ``one-pass``: known only after a teacher-forced pass of the changed model.
``calibrated``: times, within a tolerance. ``proxy``: a guess, only compared.
"""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a store says, and what parts of the model cost."""

    table: LensTable
    similarity: SimilarityTable | None
    costs: LayerCosts
    times: LayerTimes | None = None
    drafts: dict[str, Drafts] = field(default_factory=dict[str, Drafts])
    """What trained adapters say of the texts, by folder."""

    @property
    def n_layers(self) -> int:
        """L."""
        return self.table.n_layers

    @property
    def exact(self) -> bool:
        """May predictions be held to live runs?"""
        return not self.table.inexact


@dataclass(frozen=True, eq=False)
class Forecast:
    """One document: what will happen, and the least and most it will cost."""

    trace: Trace | ExitTrace | None
    least: Work | None
    most: Work | None = None
    """The same as ``least`` where None."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """All documents under one method, without running it."""

    documents: tuple[Forecast, ...]
    quality: dict[str, Float[np.ndarray, " new"]] | None = None
    """Agreement, KL and log p of the text per new token; None where a pass is needed."""
    note: str = ""


@dataclass(frozen=True)
class Method(ABC):
    """A method with its configuration."""

    name: ClassVar[str] = ""
    lossless: ClassVar[bool] = False
    prediction_class: ClassVar[PredictionClass] = "proxy"

    def config(self) -> dict[str, Any]:
        """The settings, as JSON keeps them."""
        return asdict(self)

    @property
    def label(self) -> str:
        """Name and settings in one line."""
        told = ", ".join(f"{k}={v}" for k, v in self.config().items() if v is not None)
        return f"{self.name}({told})"

    @abstractmethod
    def predict(self, evidence: Evidence) -> Prediction:
        """What the store says."""

    @abstractmethod
    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """Decode one prompt."""


def full_quality(table: LensTable) -> dict[str, Float[np.ndarray, " new"]]:
    """The full model's own quality, which every lossless method shares."""
    new = table.new
    return {
        "agreement": np.ones(int(new.sum())),
        "kl": np.zeros(int(new.sum())),
        "log_target": table.log_target[-1, new].astype(np.float64),
    }
