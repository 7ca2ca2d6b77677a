"""What an intervention is measured by: numbers of the logits at the last token of each prompt.

``logit_diff`` is the default: it is linear in the residual stream up to the final norm, and moves
where probabilities are saturated (Zhang & Nanda 2023, arXiv:2309.16042). Every metric is computed
in float32, and all but ``rank`` can be differentiated.

Of answers of several tokens that are to be summed (``several="sum"`` where pairs are made), sweeps
measure by :class:`Whole` instead, numbers of the summed log-probabilities; what measures the last
token alone refuses such pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError, UnknownNameError
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.several import refuse_beyond
from lensbench.words import spelled


@dataclass(frozen=True)
class Ends:
    """Logits at the last token of some prompts, and what is asked of them."""

    logits: Float[Tensor, "batch d_vocab"]
    answer: Int[Tensor, " batch"]
    foil: Int[Tensor, " batch"]
    clean: Float[Tensor, "batch d_vocab"] | None = None
    """Logits of the clean run, which KL compares with."""

    @property
    def log_probs(self) -> Float[Tensor, "batch d_vocab"]:
        """Log probabilities of the next token."""
        return self.logits.float().log_softmax(-1)


Sums = Float[np.ndarray, "*rows"]


@dataclass(frozen=True)
class Whole:
    """A named number of ``S = sum_j log p(token_j | prompt, tokens before)`` of whole answers."""

    name: str
    unit: str
    of: Callable[[Sums, Sums], Sums]
    """Of the sums of answers and of foils, nats."""
    foil: bool = False
    """Whether it asks for the foils, which are runs of their own."""


@dataclass(frozen=True)
class Metric:
    """A named number of a prompt's last logits."""

    name: str
    unit: str
    of: Callable[[Ends], Float[Tensor, " batch"]]
    differentiable: bool = True
    whole: Whole | None = None
    """What is measured where answers of several tokens are to be summed; None: nothing."""
    asks: bool = True
    """Whether it asks for an answer or foil at all."""

    def __call__(self, ends: Ends) -> Float[Tensor, " batch"]:
        """The metric of every row.

        Raises:
            ConfigError: anything but one number per row.
            NonFiniteError: NaN or infinity, which a mean would take for a missing place.
        """
        found: Any = self.of(ends)
        if not isinstance(found, Tensor) or found.shape != ends.answer.shape:
            gave = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ConfigError(
                f"metric {self.name!r} must give one number per prompt, a tensor of shape "
                f"{list(ends.answer.shape)}; it gave {gave}"
            )
        bad = ~found.isfinite()
        if bool(bad.any()):
            raise NonFiniteError(
                f"{self.name} is NaN or infinite for {int(bad.sum())} of {len(found)} runs; look "
                "at their logits alone, in float32"
            )
        return found


def _pick(values: Tensor, ids: Tensor) -> Tensor:
    refuse_beyond(ids, values.shape[-1])
    return values.gather(-1, ids[:, None])[:, 0]


def logit_diff(ends: Ends) -> Float[Tensor, " batch"]:
    """``logit(answer) - logit(foil)``, nats; above 0 where the answer is preferred."""
    logits = ends.logits.float()
    return _pick(logits, ends.answer) - _pick(logits, ends.foil)


def probability(ends: Ends) -> Float[Tensor, " batch"]:
    """Probability of the answer, 0 to 1."""
    return _pick(ends.log_probs, ends.answer).exp()


def loss(ends: Ends) -> Float[Tensor, " batch"]:
    """``-log p(answer)``, nats; the less the better."""
    return -_pick(ends.log_probs, ends.answer)


def rank(ends: Ends) -> Float[Tensor, " batch"]:
    """Rank of the answer among all tokens: 1 is the most probable; ties count half.

    NaN where a logit is NaN, which stands neither above nor below another.
    """
    logits = ends.logits.float()
    own = _pick(logits, ends.answer)[:, None]
    ties = (logits == own).sum(-1) - 1
    found = 1 + (logits > own).sum(-1).float() + ties / 2
    return found.masked_fill(logits.isnan().any(-1), torch.nan)


def kl(ends: Ends) -> Float[Tensor, " batch"]:
    """``KL(clean || this run)`` of the next token, nats; 0 where nothing changed."""
    if ends.clean is None:
        raise ConfigError("the metric kl compares with a clean run, and none was given")
    clean = ends.clean.float().log_softmax(-1)
    return (clean.exp() * (clean - ends.log_probs)).sum(-1)


LOG_PROB_DIFF = Whole("log_prob_diff", "nats", lambda answer, foil: answer - foil, foil=True)
"""``S(answer) - S(foil)``; of answers and foils of one token it is ``logit_diff``."""
PROBABILITY = Whole("probability", "0 to 1", lambda answer, _: np.exp(answer))
"""``exp S(answer)``: of the whole answer, as it stands."""
LOSS = Whole("loss", "nats", lambda answer, _: -answer)
"""``-S(answer)``: of all its tokens together, not per token."""

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("logit_diff", "nats", logit_diff, whole=LOG_PROB_DIFF),
        Metric("kl", "nats", kl, asks=False),
        Metric("probability", "0 to 1", probability, whole=PROBABILITY),
        Metric("rank", "1 is most probable", rank, differentiable=False),
        Metric("loss", "nats", loss, whole=LOSS),
    )
}
"""Metrics by name."""


def said(metric: str) -> str:
    """A metric in words: of a KL which way round it is taken."""
    return "KL(clean ‖ this run)" if metric == "kl" else spelled(metric)


MetricLike = str | Metric | Callable[[Ends], Tensor]


def as_metric(metric: MetricLike) -> Metric:
    """A metric by name, as it is, or made of a function of :class:`Ends`.

    Raises:
        UnknownNameError: a name that is none of :data:`METRICS`.
        ConfigError: neither a name nor a function.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, known=tuple(METRICS))
        return METRICS[metric]
    if callable(metric):
        return Metric(getattr(metric, "__name__", "custom"), "", metric)
    raise ConfigError(f"metric must be a name of {sorted(METRICS)} or a function, got {metric!r}")


def ends_of(
    pairs: PromptPairs,
    logits: Float[Tensor, "batch pos d_vocab"],
    clean: Float[Tensor, "batch d_vocab"] | None = None,
) -> Ends:
    """The last logits of every pair beside its answer and foil.

    Raises:
        ConfigError: answers of several tokens that are to be summed.
    """
    pairs.require_next_token("this method")
    device = logits.device
    answer = torch.tensor(pairs.answer, device=device)
    return Ends(logits[:, -1], answer, torch.tensor(pairs.foil, device=device), clean)
