"""Adapters of early exits without a check: the text may change."""

from dataclasses import dataclass
from typing import ClassVar

from lensbench.interventions.acceleration.decoding import Decoded, check_exit
from lensbench.interventions.acceleration.exits.free import free_exit
from lensbench.interventions.acceleration.exits.live import KeysAndValues, check_exits, early_exit
from lensbench.interventions.acceleration.study.methods import (
    Evidence,
    Forecast,
    Method,
    Prediction,
)
from lensbench.interventions.acceleration.study.simulate_exits import (
    exit_layers,
    exit_quality,
    sim_calm,
)
from lensbench.interventions.acceleration.study.work import work_exits, work_free
from lensbench.models.base import Model
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class EarlyExit(Method):
    """Leave at the first sure layer; keys and values above are recomputed later."""

    threshold: float
    measure: str = "softmax_diff"
    exits: tuple[int, ...] | None = None
    decay: float | None = None
    name = "early_exit"
    prediction_class = "identical"
    kv: ClassVar[KeysAndValues] = "recompute"

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        table, layers = evidence.table, evidence.n_layers
        allowed = check_exits(self.exits, layers)
        traces = sim_calm(
            table, self.threshold, measure=self.measure, exits=self.exits, decay=self.decay,
            exact=evidence.exact,
        )  # fmt: skip
        work = [
            work_exits(
                layers, t, allowed, copied=self.kv == "copy", oracle=self.measure == "oracle",
                reads_logits=self.measure != "state",
            )
            for t in traces
        ]  # fmt: skip
        found = exit_layers(table, self.threshold, self.measure, allowed, self.decay)
        documents = [Forecast(t, w) for t, w in zip(traces, work, strict=True)]
        note = "states copied upwards are another network" if self.kv == "copy" else ""
        return Prediction(tuple(documents), exit_quality(table, found), note)

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        return early_exit(
            model, prompt, self.threshold, n_new, measure=self.measure, kv=self.kv,
            exits=self.exits, decay=self.decay,
        )  # fmt: skip


@dataclass(frozen=True)
class EarlyExitCopy(EarlyExit):
    """The same, with the exited state handed to the layers above (CALM)."""

    kv: ClassVar[KeysAndValues] = "copy"
    name = "early_exit_copy"
    prediction_class = "proxy"


@dataclass(frozen=True)
class Free(Method):
    """FREE with a fixed threshold: one shallow exit, deep layers for several tokens at once."""

    exit_layer: int
    threshold: float = 0.9
    name = "free"
    prediction_class = "identical"

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        table, layers = evidence.table, evidence.n_layers
        exits = (check_exit(self.exit_layer, layers, full=False),)
        traces = sim_calm(table, self.threshold, exits=exits, exact=evidence.exact)
        documents = [Forecast(t, work_free(layers, t, self.exit_layer)) for t in traces]
        found = exit_layers(table, self.threshold, "softmax_diff", exits)
        return Prediction(tuple(documents), exit_quality(table, found))

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        return free_exit(model, prompt, self.exit_layer, n_new, threshold=self.threshold)
