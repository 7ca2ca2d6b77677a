"""The cache of the native back end: transformers' own, told where a plan stands.

transformers asks layer 0 how many tokens it has seen; under a plan that skips layer 0 that answer
would be wrong. This cache is told the number instead. A decoder's past holds its encoder's states
too, so that the encoder runs once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.base import Past
from lensbench.models.families import Architecture


@lru_cache(maxsize=1)
def _cache_class() -> type[Any]:
    from transformers import DynamicCache

    class PlanCache(DynamicCache):
        """Grows without sliding windows; positions come from ``seen``, not from layer 0."""

        seen = 0

        def get_seq_length(self, layer_idx: int = 0) -> int:
            del layer_idx
            return self.seen

        def get_query_offset(self, layer_idx: int = 0) -> int:
            del layer_idx
            return self.seen

        def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
            del layer_idx
            return self.seen + query_length, 0

    return PlanCache


@dataclass
class Kept:
    """What a past keeps: the cache of the blocks, and what the encoder gave."""

    own: Any
    """Cache of the main stack, the one that is told how many tokens it has seen."""
    whole: Any
    """Cache as the module takes it: ``own``, or ``own`` beside that of cross-attention."""
    encoded: Tensor | None = None


def _new(architecture: Architecture, config: Any) -> Kept:
    from transformers import DynamicCache, EncoderDecoderCache

    # Without a config the cache does not cut at sliding windows; a recurrent one needs its layers.
    own = _cache_class()(config=config) if architecture.recurrent else _cache_class()()
    two = architecture.two_stacks
    return Kept(own, EncoderDecoderCache(own, DynamicCache()) if two else own)


def open_past(
    past: Past, mask: Tensor, layers: Sequence[int], architecture: Architecture, config: Any
) -> tuple[Kept, Tensor, int]:
    """What was kept, the mask of all tokens (past and new), and how many tokens were seen.

    Raises:
        ConfigError: a spent past, another batch size, or a layer that an earlier plan skipped.
    """
    kept, real = past.take()
    if kept is None:
        return _new(architecture, config), mask, 0
    seen = {layer: _length(kept.own, layer) for layer in layers}
    if len(set(seen.values())) > 1:
        raise ConfigError(
            f"the past holds different numbers of tokens per layer ({seen}); it was made under a "
            "plan that skipped some of them. Start from Past() under the present plan"
        )
    kept.own.seen = next(iter(seen.values()), real.shape[1])  # no layer runs: the mask knows
    if real.shape[0] != mask.shape[0]:
        raise ConfigError(f"the past has {real.shape[0]} rows, the new tokens {mask.shape[0]}")
    if architecture.recurrent and mask.shape[1] > 1:
        raise ConfigError(
            "a recurrent model keeps a state instead of keys and values: after the first call give "
            f"it one token at a time, not {mask.shape[1]}"
        )
    return kept, torch.cat((real[:, : kept.own.seen], mask), dim=1), kept.own.seen


def keys_and_values(past: Past) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values ``[batch, head, pos, d_head]`` of every block; the past is used up."""
    kept, _ = past.take()
    return {
        i: (layer.keys, layer.values)
        for i, layer in enumerate(kept.own.layers)
        if layer.is_initialized
    }


def cache_of(kept: Mapping[int, tuple[Tensor, Tensor]], seen: int) -> Any:
    """A cache that holds these keys and values of ``seen`` tokens, by block."""
    cache = _cache_class()()
    for layer, (keys, values) in kept.items():
        cache.update(keys, values, layer)
    cache.seen = seen
    return cache


def close_past(kept: Kept, real: Tensor) -> Past:
    """The past to go on from."""
    kept.own.seen = real.shape[1]
    return Past(kept, real)


def _length(cache: Any, layer: int) -> int:
    if layer >= len(cache.layers):
        return 0
    found = cache.layers[layer]
    if hasattr(found, "has_previous_state"):
        return int(cache.seen) if found.has_previous_state[0] else 0
    return int(found.keys.shape[-2]) if found.is_initialized else 0
