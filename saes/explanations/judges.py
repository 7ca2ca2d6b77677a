"""Who judges: given an explanation, which contexts hold the latent, and which marks are right?

A judge never sees activations, except :class:`OracleJudge`, whose 1.0 is the ceiling.
``None`` stands for "gave no answer", which counts as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from lensbench.errors import ConfigError
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.explanations.contexts import Context
from lensbench.saes.explanations.explainers import Explanation
from lensbench.saes.explanations.rules import TokenRule

Answers = list[bool | None]


@runtime_checkable
class Judge(Protocol):
    """Answers about contexts from an explanation alone."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def detect(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """Does the latent fire somewhere in each of these contexts?"""
        ...

    def fuzz(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """Are the marked tokens of each of these contexts those on which it fires?"""
        ...


@dataclass(frozen=True)
class RuleJudge:
    """Applies the rule of an explanation: no model, no network.

    Detection: the rule fires on some token. Fuzzing: it fires on at least half of the marked ones.
    """

    name: str = "tokens"

    def detect(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """See the class."""
        rule = self._rule(explanation)
        return [bool(rule.fires(c).any()) for c in contexts]

    def fuzz(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """See the class."""
        rule = self._rule(explanation)
        return [bool(rule.fires(c)[_marks(c)].mean() >= 0.5) for c in contexts]

    def _rule(self, explanation: Explanation) -> TokenRule:
        if explanation.rule is None:
            raise ConfigError(
                f"the explanation of latent {explanation.latent} is words without a rule; the "
                "offline judge cannot read them: use an EndpointJudge (--judge endpoint)"
            )
        return explanation.rule


@dataclass(frozen=True)
class AllYesJudge:
    """Says yes to everything: balanced accuracy .5, F1 2/3 on halves."""

    name: str = "all yes"

    def detect(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """Yes."""
        del explanation
        return [True for _ in contexts]

    fuzz = detect


@dataclass(frozen=True)
class CoinJudge:
    """Throws a coin that knows neither explanation nor context: balanced accuracy near .5."""

    seed: int = 0
    name: str = "coin"

    def detect(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """Heads."""
        rng = np.random.default_rng([own_seed(self.seed, "coin"), explanation.latent])
        return [bool(v) for v in rng.integers(0, 2, len(contexts))]

    fuzz = detect


@dataclass(frozen=True)
class OracleJudge:
    """Reads the activations: the ceiling, and a check of the harness. Sees what no judge may."""

    name: str = "oracle"

    def detect(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """The truth."""
        del explanation
        return [bool(c.fires.any()) for c in contexts]

    def fuzz(self, explanation: Explanation, contexts: Sequence[Context]) -> Answers:
        """The truth."""
        del explanation
        return [bool(c.fires[_marks(c)].all()) for c in contexts]


def _marks(context: Context) -> "np.ndarray":
    assert context.marked is not None, "fuzzing asks about contexts with marks"
    return context.marked
