"""Ranges of layers over runs of tokens: the engine room of early exit and self-speculation."""

from lensbench.models.ranges.counts import Counts
from lensbench.models.ranges.omission import Sublayer
from lensbench.models.ranges.runner import LayerRunner

__all__ = ["Counts", "LayerRunner", "Sublayer"]
