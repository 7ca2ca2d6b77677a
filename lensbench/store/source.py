"""A store as an :class:`ActivationSource`: every row once per epoch, in an order that is data.

Order: rows are cut into blocks of 64; the blocks are permuted; 256 of them make a group; the rows
of a group are permuted. So reading is mostly sequential, a batch mixes distant documents, memory is
one group (two while the next is being read), and a position is three numbers.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lensbench.devices import as_device
from lensbench.errors import ConfigError, MismatchError
from lensbench.sites import Site
from lensbench.store import shard as files

if TYPE_CHECKING:
    from lensbench.store.reader import ActivationStore

BLOCK = 64
GROUP = 256 * BLOCK
_Key = tuple[int, int, int]


class RowOrder:
    """Which rows of ``start .. stop - 1`` come when; a pure function of seed, epoch and group."""

    def __init__(self, start: int, stop: int, *, seed: int, shuffle: bool) -> None:
        self.start, self.stop, self.seed, self.shuffle = start, stop, seed, shuffle
        self.n_blocks = -(-(stop - start) // BLOCK)
        self.n_groups = -(-self.n_blocks // (GROUP // BLOCK))
        self._blocks = (-1, np.arange(self.n_blocks))

    def group(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a group, ascending by block, and the permutation in which they are given out."""
        per_group = GROUP // BLOCK
        known, blocks = self._blocks
        if self.shuffle and epoch != known:
            blocks = np.random.default_rng([self.seed, epoch]).permutation(self.n_blocks)
            self._blocks = (epoch, blocks)  # one assignment: the reading thread looks here too
        chosen = np.sort(blocks[number * per_group : (number + 1) * per_group])
        rows = (self.start + chosen[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
        rows = rows[rows < self.stop]
        if not self.shuffle:
            return rows, np.arange(rows.size)
        return rows, np.random.default_rng([self.seed, epoch, number]).permutation(rows.size)


class StoreSource:
    """Batches of rows of a store.

    Args:
        store: the store.
        sites: one site or several; a batch holds the same rows of each.
        seed: of the order; the order does not depend on sites, batch size or shards.
        shuffle: False gives the rows in the order of the text.
        dtype: of the tensors given out.
        device: of the tensors given out.
        start: first row used.
        stop: end of the rows used (None: all that are there now).
        loop: go on with the next epoch; otherwise the last batch may be short.
        doc_range: only documents ``a .. b - 1``, for splits that share no document.
    """

    def __init__(
        self,
        store: "ActivationStore",
        sites: str | Sequence[str],
        *,
        seed: int = 0,
        shuffle: bool = True,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        start: int = 0,
        stop: int | None = None,
        loop: bool = True,
        doc_range: tuple[int, int] | None = None,
    ) -> None:
        names = [sites] if isinstance(sites, str) else list(sites)
        self._sites = tuple(str(Site.parse(s)) for s in names)
        if not self._sites:
            raise ConfigError("sites is empty; name at least one")
        store.require(self._sites)
        if doc_range is not None:
            start, stop = _inside(store.row_range(doc_range), start, stop)
        if seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {seed}")
        stop = store.n_tokens if stop is None else stop
        if not 0 <= start < stop <= store.n_tokens:
            raise ConfigError(
                f"rows {start} .. {stop} are empty or outside the store's {store.n_tokens} rows"
            )
        self._store, self._dtype, self._device = store, _dtype(dtype), as_device(device)
        self._order = RowOrder(start, stop, seed=int(seed), shuffle=shuffle)
        self._loop = loop
        self._epoch = self._group = self._offset = 0
        self._held: tuple[_Key, _Group] | None = None
        self._ahead: tuple[_Key, Future[_Group]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    @property
    def model(self) -> dict[str, Any]:
        """Model of the activations, as the manifest names it."""
        return self._store.model

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites in every batch."""
        return self._sites

    @property
    def n_rows(self) -> int:
        """Rows per epoch."""
        return self._order.stop - self._order.start

    def width(self, site: str) -> int:
        """Numbers per row of a site."""
        return self._store.width(site)

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Batches from the current position on; with ``loop`` for ever and all of full size."""
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        while True:
            pieces: list[dict[str, Tensor]] = []
            wanted, ended = batch_size, False
            while wanted and not ended:
                piece, ended = self._take(wanted)
                wanted -= len(next(iter(piece.values())))
                pieces.append(piece)
                ended = ended and not self._loop
            yield {s: _joined([p[s] for p in pieces]) for s in self._sites}
            if ended:
                return

    def state_dict(self) -> dict[str, Any]:
        """The position: seed, epoch, group and offset, and the rows it refers to."""
        order = self._order
        return {
            "kind": "store",
            "store": self._store.text.get("fingerprint"),
            "start": order.start,
            "stop": order.stop,
            "shuffle": order.shuffle,
            "seed": order.seed,
            "epoch": self._epoch,
            "group": self._group,
            "offset": self._offset,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; its seed and shuffling are taken over.

        Raises:
            MismatchError: a position in other rows or in another text.
        """
        for key in ("kind", "store", "start", "stop"):
            ours = self.state_dict()[key]
            if state.get(key) != ours:
                raise MismatchError(
                    f"this position belongs to a source with {key} {state.get(key)!r}, not {ours!r}"
                )
        order = self._order
        self._order = RowOrder(
            order.start, order.stop, seed=int(state["seed"]), shuffle=bool(state["shuffle"])
        )
        self._epoch, self._group = int(state["epoch"]), int(state["group"])
        self._offset = int(state["offset"])
        self._held = self._ahead = None

    def _take(self, wanted: int) -> tuple[dict[str, Tensor], bool]:
        """At most ``wanted`` rows of the current group; whether the epoch ends with them."""
        rows = self._current()
        span = rows.order[self._offset : self._offset + wanted]
        piece = {
            site: values[span].to(self._device, non_blocking=True).to(self._dtype)
            for site, values in rows.values.items()
        }
        self._offset += len(span)
        if self._offset < len(rows.order):
            return piece, False
        self._group, self._offset = self._group + 1, 0
        if self._group < self._order.n_groups:
            return piece, False
        self._epoch, self._group = self._epoch + 1, 0
        return piece, True

    def _current(self) -> "_Group":
        key = (self._order.seed, self._epoch, self._group)
        if self._held is None or self._held[0] != key:
            ahead, self._ahead = self._ahead, None
            ready = ahead is not None and ahead[0] == key
            self._held = (key, ahead[1].result() if ready and ahead else self._load(*key[1:]))
            self._read_ahead()
        return self._held[1]

    def _read_ahead(self) -> None:
        epoch, group = self._epoch, self._group + 1
        if group >= self._order.n_groups:
            epoch, group = epoch + 1, 0
        if self._order.n_groups > 1 and (self._loop or group):
            job = self._thread.submit(self._load, epoch, group)
            self._ahead = ((self._order.seed, epoch, group), job)

    def _load(self, epoch: int, group: int) -> "_Group":
        rows, order = self._order.group(epoch, group)
        kind = self._store.dtype
        values = {s: files.to_tensor(self._store.gather(s, rows), kind) for s in self._sites}
        return _Group(values, torch.from_numpy(order))


class _Group:
    def __init__(self, values: dict[str, Tensor], order: Tensor) -> None:
        self.values, self.order = values, order


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _inside(found: tuple[int, int], start: int, stop: int | None) -> tuple[int, int]:
    return max(start, found[0]), found[1] if stop is None else min(stop, found[1])


def _dtype(name: str) -> torch.dtype:
    known = ("float32", "float16", "bfloat16", "float64")
    if name not in known:
        raise ConfigError(f"dtype must be one of {', '.join(known)}, got {name!r}")
    return getattr(torch, name)
