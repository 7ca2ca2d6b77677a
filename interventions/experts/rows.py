"""Prompts as rows of token ids, and what a mixture of experts must have for these methods."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.interventions.experts.plans import Expert
from lensbench.models.base import Model
from lensbench.padding import PaddingTokens
from lensbench.tokens import Tokens, TokensLike, as_tokens

Rows: TypeAlias = list[list[int]]
Prompts: TypeAlias = "TokensLike | Sequence[str]"
"""Texts, or token ids in any usual form."""


def rows_of(model: Model, prompts: Any) -> Rows:
    """Every prompt as its token ids, without padding.

    Raises:
        ConfigError: neither texts nor token ids, or none, or an array with padding
            at an edge.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    listed: list[Any] = [] if isinstance(prompts, Tokens) or not _iterable(prompts) else [*prompts]
    if listed and all(isinstance(one, str) for one in listed):
        batch = model.tokens(listed)
    else:
        batch = as_tokens(prompts)
        if isinstance(prompts, Tensor | np.ndarray):  # lists are what they say, arrays padded
            PaddingTokens.of(model.tokenizer).refuse_bare(batch.ids, "a row of the prompts")
    return [ids[real].tolist() for ids, real in zip(batch.ids, batch.real, strict=True)]


def batch_of(model: Model, rows: Rows) -> Tokens:
    """Rows as one batch, padded on the left; what looks like padding inside is kept as a token."""
    batch = as_tokens(rows, pad_id=getattr(model.tokenizer, "pad_token_id", None))
    return batch if batch.mask is not None else Tokens(batch.ids, torch.ones_like(batch.ids).bool())


def _iterable(value: Any) -> bool:
    return isinstance(value, Iterable)


def texts_of(model: Model, rows: Rows) -> tuple[str, ...]:
    """Prompts as people read them."""
    if model.tokenizer is None:
        return tuple(" ".join(f"#{i}" for i in row) for row in rows)
    return tuple(str(model.tokenizer.decode(row)) for row in rows)


def batches(n: int, size: int) -> Iterator[range]:
    """Numbers of prompts, ``size`` at a time."""
    for first in range(0, n, size):
        yield range(first, min(n, first + size))


def moe_layers(model: Model) -> tuple[int, ...]:
    """Layers with a router.

    Raises:
        ConfigError: a model without experts, or whose back end does not reach the router.
    """
    named = {s.name for s in model.sites()}
    layers = tuple(
        s.layer for s in model.sites() if s.name == "router.weights" and s.layer is not None
    )
    if layers:
        return layers
    if model.card.n_experts and "router.weights" not in named:
        raise ConfigError(
            f"the back end {model.card.backend!r} does not reach the routers of "
            f"{model.card.name!r}; open it with the native or the nnsight back end"
        )
    raise ConfigError(
        f"{model.card.name!r} (a {model.card.family} model) has no experts; this needs a mixture "
        "of experts such as Mixtral, Qwen2/3-MoE, OLMoE, DeepSeek-V3 or gpt-oss"
    )


def check_experts(model: Model, experts: Iterable[Expert]) -> None:
    """Refuse experts that the model has not.

    Raises:
        ConfigError: with the layers that have experts, or the range of experts.
    """
    layers, n = moe_layers(model), model.card.n_experts
    for layer, expert in experts:
        if layer not in layers:
            raise ConfigError(
                f"layer {layer} has no router; those of this model are {list(layers)}"
            )
        if not 0 <= expert < n:
            raise ConfigError(f"layer {layer} has experts 0..{n - 1}, got expert {expert}")


def per_prompt(name: str, values: Any, n: int) -> np.ndarray:
    """One value per prompt.

    Raises:
        ConfigError: another number of them.
    """
    found = np.asarray(values)
    if found.shape != (n,):
        raise ConfigError(f"{name} must hold one value per prompt ({n}); got {found.shape}")
    return found
