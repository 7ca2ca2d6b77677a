"""The key-value cache of the native back end: transformers' own, told where a plan stands.

transformers asks layer 0 how many tokens it has seen; under a plan that skips layer 0 that answer
would be wrong. This cache is told the number instead.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.models.base import Past


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


def open_past(past: Past, mask: Tensor, layers: list[int]) -> tuple[Any, Tensor, int]:
    """Cache, mask of all tokens (past and new), and how many tokens ``layers`` have seen.

    Raises:
        ConfigError: a spent past, another batch size, or a layer that an earlier plan skipped.
    """
    cache, real = past.take()
    if cache is None:
        cache = _cache_class()()
        cache.seen = 0
        return cache, mask, 0
    seen = {layer: _length(cache, layer) for layer in layers}
    if len(set(seen.values())) > 1:
        raise ConfigError(
            f"the past holds different numbers of tokens per layer ({seen}); it was made under a "
            "plan that skipped some of them. Start from Past() under the present plan"
        )
    cache.seen = next(iter(seen.values()), real.shape[1])  # no layer runs: the mask knows
    if real.shape[0] != mask.shape[0]:
        raise ConfigError(f"the past has {real.shape[0]} rows, the new tokens {mask.shape[0]}")
    return cache, torch.cat((real[:, : cache.seen], mask), dim=1), cache.seen


def _length(cache: Any, layer: int) -> int:
    if layer >= len(cache.layers) or not cache.layers[layer].is_initialized:
        return 0
    return int(cache.layers[layer].keys.shape[-2])
