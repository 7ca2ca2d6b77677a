"""Activations on disk: write once, read many times, from anywhere, with every byte checked."""

from lensbench.store.pairs import PairedStores, pair_stores
from lensbench.store.reader import ActivationStore, SequenceBatch, StoreIndex, open_store
from lensbench.store.source import StoreSource

__all__ = [
    "ActivationStore",
    "PairedStores",
    "SequenceBatch",
    "StoreIndex",
    "StoreSource",
    "open_store",
    "pair_stores",
]
