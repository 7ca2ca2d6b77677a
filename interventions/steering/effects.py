"""What steering is measured by: numbers of the next token, or of the text that follows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions.metrics import Ends, Metric, MetricLike, as_metric
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs


@dataclass(frozen=True)
class OfText:
    """A number of a continuation: ``OfText(lambda text: "wedding" in text, "mentions weddings")``.

    The function gets the text that follows the prompt, or its ids where there is no tokenizer.
    """

    of: Callable[[Any], float]
    name: str = "given function"
    unit: str = ""

    def __call__(self, model: Model, continuations: list[list[int]]) -> np.ndarray:
        """The number of every continuation.

        Raises:
            NonFiniteError: NaN or infinity.
        """
        tokenizer: Any = model.tokenizer
        given: list[Any] = (
            continuations
            if tokenizer is None
            else [str(tokenizer.decode(ids)) for ids in continuations]
        )
        found = np.array([float(self.of(one)) for one in given])
        if not np.isfinite(found).all():
            at = int(np.flatnonzero(~np.isfinite(found))[0])
            raise NonFiniteError(f"{self.name} of {given[at]!r} is {found[at]}")
        return found


Effect: TypeAlias = MetricLike | OfText


def as_effect(effect: Effect, pairs: PromptPairs | None, new_tokens: int) -> Metric | OfText:
    """The effect, if the prompts and settings allow it.

    Raises:
        ConfigError: a metric of answers for prompts that have none, or one of text with no text.
        UnknownNameError: no such metric.
    """
    if isinstance(effect, OfText):
        if new_tokens < 1:
            raise ConfigError("an effect of text needs new tokens: new_tokens >= 1")
        return effect
    metric = as_metric(effect)
    if pairs is None and metric.asks:
        raise ConfigError(
            f"{metric.name!r} is about an answer and a foil; pass PromptPairs (lensbench.prompts), "
            "or measure the text that follows: effect=OfText(function, name)"
        )
    if pairs is not None and metric.asks:
        pairs.require_next_token("steering")
    return metric


def last_effect(
    metric: Metric, pairs: PromptPairs | None, logits: Tensor, clean: Tensor
) -> np.ndarray:
    """A metric of ``[rows, d_vocab]`` last logits."""
    device = logits.device
    none = [0] * len(logits)  # of prompts without answers only KL is measured, which asks for none
    answer = torch.tensor(none if pairs is None else pairs.answer, device=device)
    foil = torch.tensor(none if pairs is None else pairs.foil, device=device)
    return metric(Ends(logits, answer, foil, clean)).double().cpu().numpy()
