"""Adapters of skipped layers, halves and positions, and of drafts made by skipping.

Their compute is known beforehand; their quality is not in the store, because what comes after a
skipped layer has another input. Verification makes the one teacher-forced pass that it takes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import MissingDataError
from lensbench.interventions.acceleration.decoding import Decoded
from lensbench.interventions.acceleration.skipping.adaskip import adaskip_route
from lensbench.interventions.acceleration.skipping.forced import Forced, forced_budgets
from lensbench.interventions.acceleration.skipping.live import decode_route, skip_decode
from lensbench.interventions.acceleration.skipping.pruning import angular_route, shortgpt_route
from lensbench.interventions.acceleration.skipping.route import Route, evenly_off, last_layers_off
from lensbench.interventions.acceleration.skipping.schedule import Budgets, linear_budgets
from lensbench.interventions.acceleration.speculative.schedules import AdaptiveThreshold
from lensbench.interventions.acceleration.speculative.skips import draft_and_verify
from lensbench.interventions.acceleration.study.methods import (
    Evidence,
    Forecast,
    Method,
    Prediction,
    full_quality,
)
from lensbench.interventions.acceleration.study.similarity import SimilarityTable
from lensbench.interventions.acceleration.study.work import work_budgets, work_route
from lensbench.models.base import Model
from lensbench.models.ranges import Sublayer
from lensbench.tokens import TokensLike


@dataclass(frozen=True)
class Forcible(Method):
    """A method of which one teacher-forced pass tells the quality."""

    prediction_class = "one-pass"

    @abstractmethod
    def forced(
        self, model: Model, prompt: Sequence[int], new: Sequence[int], evidence: Evidence
    ) -> tuple[Float[Tensor, "new d_vocab"], Float[Tensor, "new d_vocab"]]:
        """Logits of every new token of a given text: of the changed model, and of the full one."""


@dataclass(frozen=True)
class _Routed(Forcible):
    """The same blocks for every token."""

    @abstractmethod
    def route(self, evidence: Evidence) -> Route:
        """Which ones."""

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        route = self.route(evidence)
        documents = [
            Forecast(None, work_route(route, d.n_prompt, d.n_new))
            for d in evidence.table.documents()
        ]
        return Prediction(tuple(documents))

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        return decode_route(model, prompt, self.route(evidence), n_new)

    def forced(
        self, model: Model, prompt: Sequence[int], new: Sequence[int], evidence: Evidence
    ) -> tuple[Float[Tensor, "new d_vocab"], Float[Tensor, "new d_vocab"]]:
        """See :class:`Forcible`."""
        whole = Forced(model, torch.tensor([*prompt, *new]))
        part = slice(len(prompt) - 1, -1)
        return whole.along(self.route(evidence))[part], whole.full[part]


@dataclass(frozen=True)
class ShortGpt(_Routed):
    """Without the layers of least block influence."""

    delete: int
    name = "shortgpt"

    def route(self, evidence: Evidence) -> Route:
        """See :func:`shortgpt_route`."""
        return shortgpt_route(_similarity(evidence).influence, self.delete)


@dataclass(frozen=True)
class Angular(_Routed):
    """Without the span of layers that turns the last token least."""

    delete: int
    name = "angular"

    def route(self, evidence: Evidence) -> Route:
        """See :func:`angular_route`."""
        return angular_route(_similarity(evidence).angular, self.delete)


@dataclass(frozen=True)
class LastLayers(_Routed):
    """Without the last layers: the plainest baseline."""

    skip: int
    name = "last_layers_off"

    def route(self, evidence: Evidence) -> Route:
        """See :func:`last_layers_off`."""
        return last_layers_off(evidence.n_layers, self.skip)


@dataclass(frozen=True)
class Evenly(_Routed):
    """Without evenly spread layers (unified skipping)."""

    skip: int
    name = "evenly_off"

    def route(self, evidence: Evidence) -> Route:
        """See :func:`evenly_off`."""
        return evenly_off(evidence.n_layers, self.skip)


@dataclass(frozen=True)
class AdaSkip(_Routed):
    """Without the halves of layers that turn the stream least, scaled in their place."""

    skip: int
    scaled: bool = True
    name = "adaskip"

    def route(self, evidence: Evidence) -> Route:
        """See :func:`adaskip_route`.

        Raises:
            MissingDataError: the store has no ``resid_mid``.
        """
        found = _similarity(evidence).half_similarity()
        if not (found.ratio > 0).all():
            raise MissingDataError(
                "adaskip ranks halves of layers by the stream between them; capture "
                "blocks.*.resid_mid too (parallel blocks have none)"
            )
        return adaskip_route(found, self.skip, scaled=self.scaled)


@dataclass(frozen=True)
class SkipDecode(Forcible):
    """Fewer layers the later the token."""

    least: int
    warmup: int = 1
    name = "skip_decode"

    def budgets(self, evidence: Evidence) -> Budgets:
        """A line from all layers to ``least`` over the longest continuation."""
        length = max(d.n_new for d in evidence.table.documents())
        return linear_budgets(evidence.n_layers, length, least=self.least, warmup=self.warmup)

    def predict(self, evidence: Evidence) -> Prediction:
        """See :class:`Method`."""
        budgets = self.budgets(evidence)
        documents = [
            Forecast(None, work_budgets([budgets.blocks(t) for t in range(d.n_new)], d.n_prompt))
            for d in evidence.table.documents()
        ]
        return Prediction(tuple(documents), note="not trained for it")

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        return skip_decode(model, prompt, self.budgets(evidence), n_new)

    def forced(
        self, model: Model, prompt: Sequence[int], new: Sequence[int], evidence: Evidence
    ) -> tuple[Float[Tensor, "new d_vocab"], Float[Tensor, "new d_vocab"]]:
        """See :class:`Forcible`."""
        ids, budgets = torch.tensor([*prompt, *new]), self.budgets(evidence)
        rows = [budgets.blocks(t) for t in range(len(new))]
        rows.append(rows[-1])  # the last new token predicts nothing that is asked for
        logits, _ = forced_budgets(model, ids, len(prompt), rows)
        part = slice(len(prompt) - 1, -1)
        return logits[part], Forced(model, ids).full[part]


@dataclass(frozen=True)
class DraftAndVerify(Method):
    """Drafts of the model without some halves of layers, checked by the whole model."""

    skips: tuple[Sublayer, ...]
    threshold: float = 0.6
    most: int = 12
    name = "draft_and_verify"
    lossless = True
    prediction_class = "one-pass"

    def __post_init__(self) -> None:
        """Pairs from JSON are lists."""
        pairs = tuple((half, int(layer)) for half, layer in self.skips)
        object.__setattr__(self, "skips", pairs)

    def predict(self, evidence: Evidence) -> Prediction:
        """Nothing but the text: what a changed network drafts is not in the store."""
        documents = tuple(Forecast(None, None) for _ in evidence.table.documents())
        return Prediction(documents, full_quality(evidence.table), "acceptance takes a pass")

    def live(self, model: Model, prompt: TokensLike, n_new: int, evidence: Evidence) -> Decoded:
        """See :class:`Method`."""
        del evidence
        schedule = AdaptiveThreshold(self.threshold, self.most)
        return draft_and_verify(model, prompt, self.skips, n_new, schedule=schedule)


def _similarity(evidence: Evidence) -> SimilarityTable:
    if evidence.similarity is None:
        raise MissingDataError("this method chooses by similarities of the stream; none were read")
    return evidence.similarity
