"""Adapters of drafts that need more than the stream: a trained adapter, or a search on the way."""

from dataclasses import dataclass

from lensbench.errors import MissingDataError
from lensbench.interventions.acceleration.decoding import Decoded
from lensbench.interventions.acceleration.speculative.kangaroo import kangaroo
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from lensbench.interventions.acceleration.speculative.swift import SwiftSearch, swift
from lensbench.interventions.acceleration.study.methods import (
    Evidence,
    Forecast,
    Method,
    Prediction,
    full_quality,
)
from lensbench.interventions.acceleration.study.methods_drafts import drafts_of
from lensbench.interventions.acceleration.study.simulate_kangaroo import sim_kangaroo
from lensbench.interventions.acceleration.study.work import work_rounds
from lensbench.models.base import Model
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class Kangaroo(Method):
    """Drafts of the first layers and a trained adapter, kept in a folder.

    The adapter's own attention is not among the costs, as it is not among the counted layers.
    """

    adapter: str
    threshold: float = 0.6
    most: int = 6
    name = "kangaroo"
    lossless = True
    prediction_class = "bounded"

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`.

        Raises:
            MissingDataError: the adapter did not read the store.
        """
        drafts = evidence.drafts.get(self.adapter)
        if drafts is None:
            raise MissingDataError(
                f"the adapter in {self.adapter} has not read this store; name the method in "
                "acceleration_study(model, store, methods=[...])"
            )
        traces = sim_kangaroo(
            evidence.table, drafts, self.threshold, self.most, exact=evidence.exact
        )
        work = lambda layers, trace: work_rounds(layers, trace, unsure=True)  # noqa: E731
        return drafts_of(evidence, traces, work, "without the cost of the adapter")

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        adapter = KangarooAdapter.load(self.adapter, model)
        schedule = ConfidenceStop(self.threshold, self.most)
        return kangaroo(model, prompt, adapter, n_new, schedule=schedule)


@dataclass(frozen=True)
class Swift(Method):
    """Drafts without halves of layers that are searched while decoding; known only live."""

    ratio: float = 0.45
    window: int = 32
    name = "swift"
    lossless = True
    prediction_class = "one-pass"

    def predict(self, evidence: Evidence) -> Prediction:
        """Nothing but the text: what a changed network drafts is not in the store."""
        documents = tuple(Forecast(None, None) for _ in evidence.table.documents())
        return Prediction(documents, full_quality(evidence.table), "searched while decoding")

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        search = SwiftSearch(evidence.n_layers, self.ratio, self.window)
        return swift(model, prompt, n_new, search=search)
