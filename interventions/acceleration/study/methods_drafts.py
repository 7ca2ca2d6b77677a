"""Adapters of lossless drafting: what is drafted changes, what is written does not."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lensbench.interventions.acceleration.decoding import Decoded, greedy
from lensbench.interventions.acceleration.speculative.del_rule import DelRule
from lensbench.interventions.acceleration.speculative.dynamic import dynamic_exit, scheduled_exit
from lensbench.interventions.acceleration.speculative.fixed import fixed_exit
from lensbench.interventions.acceleration.speculative.schedules import (
    AdaptiveThreshold,
    ConfidenceStop,
    DraftLengthFSM,
)
from lensbench.interventions.acceleration.study.methods import (
    Evidence,
    Forecast,
    Method,
    Prediction,
    full_quality,
)
from lensbench.interventions.acceleration.study.simulate import sim_fixed, sim_rule
from lensbench.interventions.acceleration.study.simulate_del import sim_del
from lensbench.interventions.acceleration.study.trace import Trace
from lensbench.interventions.acceleration.study.work import (
    Work,
    work_del,
    work_plain,
    work_rounds,
)
from lensbench.models.base import Model
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class Plain(Method):
    """Token by token through all layers: what the others are compared with."""

    name = "plain"
    lossless = True
    prediction_class = "identical"

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        documents = [
            Forecast(None, work_plain(evidence.n_layers, d.n_prompt, d.n_new))
            for d in evidence.table.documents()
        ]
        return Prediction(tuple(documents), full_quality(evidence.table))

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        return greedy(model, prompt, n_new)


@dataclass(frozen=True)
class FixedExit(Method):
    """LayerSkip's drafts from one exit layer."""

    exit_layer: int
    draft: int = 4
    name = "fixed_exit"
    lossless = True
    prediction_class = "identical"

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        traces = sim_fixed(evidence.table, self.exit_layer, self.draft, exact=evidence.exact)
        return drafts_of(evidence, traces)

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        return fixed_exit(model, prompt, self.exit_layer, self.draft, n_new)


@dataclass(frozen=True)
class _Ruled(Method):
    """Drafts from one exit layer whose length a rule decides."""

    exit_layer: int
    lossless = True
    prediction_class = "bounded"

    @abstractmethod
    def rule(self) -> Any:
        """A fresh rule."""

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        traces = sim_rule(evidence.table, self.exit_layer, self.rule(), exact=evidence.exact)
        return drafts_of(evidence, traces, partial(work_rounds, unsure=True))

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        return scheduled_exit(model, prompt, self.exit_layer, self.rule(), n_new)


@dataclass(frozen=True)
class ConfidenceExit(_Ruled):
    """Drafts that end with the first unsure token."""

    threshold: float = 0.6
    most: int = 6
    name = "confidence_exit"

    def rule(self) -> ConfidenceStop:
        """See :class:`ConfidenceStop`."""
        return ConfidenceStop(self.threshold, self.most)


@dataclass(frozen=True)
class FsmExit(_Ruled):
    """Drafts one longer after full acceptance, one shorter after any other round."""

    length: int = 6
    most: int = 18
    name = "fsm_exit"
    prediction_class = "identical"

    def rule(self) -> DraftLengthFSM:
        """See :class:`DraftLengthFSM`."""
        return DraftLengthFSM(self.length, most=self.most)


@dataclass(frozen=True)
class AdaptiveExit(_Ruled):
    """Drafts under Draft & Verify's adaptive threshold, from an exit layer."""

    threshold: float = 0.6
    most: int = 12
    name = "adaptive_exit"

    def rule(self) -> AdaptiveThreshold:
        """See :class:`AdaptiveThreshold`."""
        return AdaptiveThreshold(self.threshold, self.most)


@dataclass(frozen=True)
class Del(Method):
    """DEL: exit layer and length chosen anew each round."""

    omega: float = 0.95
    gamma_max: int = 18
    name = "del"
    lossless = True
    prediction_class = "bounded"

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        traces = sim_del(evidence.table, self.omega, self.gamma_max, exact=evidence.exact)
        return drafts_of(evidence, traces, work_del)

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        rule = DelRule(evidence.n_layers, self.omega, self.gamma_max)
        return dynamic_exit(model, prompt, n_new, rule=rule)


def drafts_of(
    evidence: Evidence,
    traces: Sequence[Trace],
    work: Callable[[int, Trace], Work] = work_rounds,
    note: str = "",
) -> Prediction:
    """Traces with their least and most work; the text is the full model's."""
    layers = evidence.n_layers
    documents = [
        Forecast(t, work(layers, t), None if t.exact else work(layers, t.upper())) for t in traces
    ]
    note = note if evidence.exact else "as if the text were the model's own"
    return Prediction(tuple(documents), full_quality(evidence.table), note)
