"""The work of a capture, one shard at a time: which sequences it has, and their activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import LifoQueue
from typing import Any

import numpy as np
import torch

from lensbench.harvest.layout import Batch, Layout, join
from lensbench.harvest.sites import as_rows
from lensbench.harvest.text import Text
from lensbench.models.base import Model
from lensbench.sites import Site
from lensbench.store.manifest import SiteEntry
from lensbench.store.reader import token_batch
from lensbench.store.writer import ShardTokens

SHARD_BYTES = 32 << 20
"""Aimed-at size of one shard of all sites of the first capture; at least one batch goes in."""
SHARD_TOKENS = 1 << 18


@dataclass(frozen=True)
class Job:
    """One shard to be: its number, its forward batches, and their tokens as one block."""

    number: int
    batches: list[Batch]
    tokens: ShardTokens


def shard_size(layout: Layout, dtype: str, entries: Mapping[str, SiteEntry]) -> int:
    """Forward batches per shard."""
    row = sum(e.width for e in entries.values()) * getattr(torch, dtype).itemsize
    rows = layout.batch_size * layout.rows_per_sequence()
    fed = layout.batch_size * layout.context
    return max(1, min(SHARD_BYTES // (row * rows), SHARD_TOKENS // fed))


def jobs(layout: Layout, text: Text, tokenizer: Any, size: int) -> Iterator[Job]:
    """The shards of a text, in order; each is laid out when it is asked for."""
    held: list[Batch] = []
    number = documents = 0
    for batch, begins in layout.batches(layout.sequences(text, tokenizer)):
        held.append(batch)
        documents += begins
        if len(held) == size:
            yield Job(number, held, join(held, documents))
            held, number, documents = [], number + 1, 0
    if held:
        yield Job(number, held, join(held, documents))


class Buffers:
    """Two sets of buffers: one is filled while the other is written. Memory stops there."""

    def __init__(self, dtype: str) -> None:
        self._dtype = getattr(torch, dtype)
        # Last in, first out: the second set is only ever filled when the disk is behind.
        self._free: LifoQueue[dict[str, torch.Tensor]] = LifoQueue()
        for _ in range(2):
            self._free.put({})

    def take(self) -> dict[str, torch.Tensor]:
        """A set nobody is using; waits for the writer where there is none."""
        return self._free.get()

    def give_back(self, held: dict[str, torch.Tensor]) -> None:
        """The set may be filled again."""
        self._free.put(held)

    def rows(self, held: dict[str, torch.Tensor], site: str, n: int, width: int) -> torch.Tensor:
        """First ``n`` rows of a site's buffer, made or enlarged as needed."""
        found = held.get(site)
        if found is None or len(found) < n:
            found = held[site] = torch.empty((n, width), dtype=self._dtype)
        return found[:n]


def fill(
    model: Model,
    job: Job,
    rows: Mapping[str, torch.Tensor],
    entries: Mapping[str, SiteEntry],
    after: Callable[[int], None],
) -> None:
    """Run the batches of ``job`` and copy the kept rows of every site into ``rows[site]``."""
    sites = [Site.parse(name) for name in rows]
    at = 0
    for batch in job.batches:
        for name, values in kept_rows(model, batch, sites, entries).items():
            rows[name][at : at + batch.n_kept].copy_(values)
        at += batch.n_kept
        after(batch.n_real)


def kept_rows(
    model: Model, batch: Batch, sites: Sequence[Site], entries: Mapping[str, SiteEntry]
) -> dict[str, torch.Tensor]:
    """Activations ``[n, width]`` of the kept tokens of one forward batch, in reading order."""
    acts = model.run(token_batch(batch.ids, batch.real), capture=sites, logits="none").acts
    every = batch.n_kept == batch.kept.size
    pick = None if every else torch.from_numpy(np.flatnonzero(batch.kept))
    found: dict[str, torch.Tensor] = {}
    for site in sites:
        name = str(site)
        flat = as_rows(site, acts[site], entries[name])
        found[name] = flat if pick is None else flat.index_select(0, pick.to(flat.device))
    return found
