"""Activations on disk: write once, read many times, from anywhere, with every byte checked."""

from lensbench.store.reader import ActivationStore, SequenceBatch, StoreIndex, open_store
from lensbench.store.source import StoreSource

__all__ = ["ActivationStore", "SequenceBatch", "StoreIndex", "StoreSource", "open_store"]
