"""Metrics of what is said about an entity: how unsure the answer is, how probable some tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lensbench.arguments import whole
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.metrics import Ends, Metric


def answer_entropy(tokens: Sequence[int] | None = None) -> Metric:
    """Entropy of the next token, ``-sum_t p_t log p_t``, nats; with ``tokens`` among these alone.

    Among n tokens 0 to log n, whatever their total probability: p is normalised over them.

    Raises:
        ConfigError: fewer than two tokens, or what are none.

    Example:
        >>> metric = interventions.answer_entropy()
        >>> found = interventions.patch_sweep(model, pairs, metric=metric, layers=[2])
    """
    chosen = None if tokens is None else _ids(tokens, 2)

    def entropy(ends: Ends) -> Tensor:
        logits = ends.logits.float() if chosen is None else _of(ends.logits.float(), chosen)
        log_p = logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    return Metric("entropy", "nats", entropy, asks=False)


def token_probability(tokens: Sequence[int], name: str = "probability of the tokens") -> Metric:
    """Probability that the next token is one of ``tokens`` (a refusal, say), 0 to 1.

    Raises:
        ConfigError: no token, or what are none.

    Example:
        >>> lima = model.tokenizer.encode("Lima", add_special_tokens=False)
        >>> metric = interventions.token_probability(lima, "says Lima")
    """
    chosen = _ids(tokens, 1)
    return Metric(
        name, "0 to 1", lambda ends: _of(ends.log_probs, chosen).exp().sum(-1), asks=False
    )


def _of(values: Tensor, ids: Tensor) -> Tensor:
    """Columns of some tokens.

    Raises:
        MismatchError: a token that the model has not.
    """
    if int(ids.max()) >= values.shape[-1]:
        raise MismatchError(f"token {int(ids.max())} is asked about, and this model has tokens "
                            f"0..{values.shape[-1] - 1}")  # fmt: skip
    return values[:, ids]


def _ids(tokens: Any, least: int) -> Tensor:
    bare = isinstance(tokens, str) or not hasattr(tokens, "__iter__")
    found = [None] if bare else [whole(t) for t in tokens]
    ids = [t for t in found if t is not None and t >= 0]
    if len(ids) < len(found) or len(set(ids)) < max(least, len(ids)):
        raise ConfigError(
            f"tokens must be at least {least} different token ids, got {tokens!r}. Ids of a "
            "text: model.tokenizer.encode(text, add_special_tokens=False)"
        )
    return torch.tensor(ids)
