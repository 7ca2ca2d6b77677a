"""Groups of rows as a source gives them out: read ahead by threads, or held in memory whole."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lensbench.store import shard as files

if TYPE_CHECKING:
    from lensbench.store.reader import ActivationStore

_CHUNK = 1 << 14
"""Rows that are copied at a time into memory that holds all."""
_Key = tuple[int, int, int]


class Group(NamedTuple):
    """Values ``{site: [n, width]}`` and which of them come when."""

    values: dict[str, Tensor]
    order: Tensor


@runtime_checkable  # so that `make test-shapes` can check it
class Order(Protocol):
    """What is needed of a :class:`lensbench.store.source.RowOrder`."""

    start: int
    stop: int
    seed: int
    n_groups: int

    def group(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a group and their order."""
        ...


class GroupReader:
    """Reads groups of a store, ``workers`` of them ahead; the order does not depend on that."""

    def __init__(self, store: "ActivationStore", sites: Sequence[str], workers: int) -> None:
        self._store, self._sites, self._workers = store, tuple(sites), workers
        self._current: tuple[_Key, Group] | None = None
        self._ahead: dict[_Key, Future[Group]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._resident: dict[str, Tensor] | None = None

    def get(self, order: Order, epoch: int, number: int, *, loop: bool) -> Group:
        """A group; the ones after it are asked for (with ``loop`` across the end of the epoch)."""
        key = (order.seed, epoch, number)
        if self._current is None or self._current[0] != key:
            ready = self._ahead.pop(key, None)
            self._current = (key, ready.result() if ready else self._load(order, epoch, number))
            self._read_ahead(order, epoch, number, loop=loop)
        return self._current[1]

    def hold(self, order: Order, device: torch.device) -> None:
        """Read all rows of ``order`` into the memory of ``device``."""
        self.forget()
        kind = getattr(torch, self._store.dtype)
        kept: dict[str, Tensor] = {}
        for site in self._sites:
            shape = order.stop - order.start, self._store.width(site)
            kept[site] = torch.empty(shape, dtype=kind, device=device)
            for first in range(order.start, order.stop, _CHUNK):
                rows = np.arange(first, min(first + _CHUNK, order.stop))
                part = files.to_tensor(self._store.gather(site, rows), self._store.dtype)
                kept[site][first - order.start :][: len(rows)].copy_(part)
        self._resident = kept

    def forget(self) -> None:
        """Drop what was read for another position."""
        for job in self._ahead.values():
            job.cancel()
        self._ahead, self._current = {}, None

    def close(self) -> None:
        """End the threads; a later group starts them again."""
        self.forget()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None

    def _read_ahead(self, order: Order, epoch: int, number: int, *, loop: bool) -> None:
        wanted: dict[_Key, Future[Group]] = {}
        for _ in range(self._workers):
            number += 1
            if number == order.n_groups:
                epoch, number = epoch + 1, 0
                if not loop:
                    break
            key = (order.seed, epoch, number)
            ready = self._ahead.pop(key, None)
            wanted[key] = ready or self._pool().submit(self._load, order, epoch, number)
        self._ahead = wanted

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers, thread_name_prefix="store-reader")
        return self._threads

    def _load(self, order: Order, epoch: int, number: int) -> Group:
        rows, places = order.group(epoch, number)
        if self._resident is not None:
            among = torch.from_numpy(rows[places] - order.start)
            device = next(iter(self._resident.values())).device
            return Group(self._resident, among.to(device))
        kind = self._store.dtype
        values = {s: files.to_tensor(self._store.gather(s, rows), kind) for s in self._sites}
        return Group(values, torch.from_numpy(places))
