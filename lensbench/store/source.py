"""A store as an :class:`ActivationSource`: every row once per epoch, in an order that is data.

Order: rows are cut into blocks of 64; the blocks are permuted; 256 of them make a group; the rows
of a group are permuted. So reading is mostly sequential, a batch mixes distant documents, memory is
one group and those that ``workers`` read ahead, and a position is three numbers.

``rank`` of ``ranks`` readers takes every ``ranks``-th row of that one order, so together they read
what a single reader with batches ``ranks`` times as large would; their positions are equal, and one
written by any number of readers is gone on from by any other.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lensbench.devices import as_device
from lensbench.errors import ConfigError, MismatchError
from lensbench.sites import Site
from lensbench.store import shard as files
from lensbench.store.groups import GroupReader

if TYPE_CHECKING:
    from lensbench.store.reader import ActivationStore

BLOCK = 64
GROUP = 256 * BLOCK


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
        loop: go on with the next epoch; otherwise the last batch may be short (with ``ranks``,
            empty for some, so that all give as many batches).
        doc_range: only documents ``a .. b - 1``, for splits that share no document.
        workers: threads that read groups ahead; the order does not depend on them.
        rank: number of this reader among ``ranks`` that share the rows.
        ranks: readers; each gets batches of its own, and all together every row once per epoch.

    Raises:
        ConfigError: an argument that cannot be used, or rows that do not exist.
        MissingDataError: a site that is not in the store.
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
        workers: int = 1,
        rank: int = 0,
        ranks: int = 1,
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
        if workers < 1 or not 0 <= rank < ranks:
            raise ConfigError(
                "workers must be at least 1 and rank one of 0 to ranks - 1; got "
                f"workers={workers}, rank={rank}, ranks={ranks}"
            )
        self._all_rows = start == 0 and stop is None
        stop = store.n_tokens if stop is None else stop
        if not 0 <= start < stop <= store.n_tokens:
            raise ConfigError(
                f"rows {start} .. {stop} are empty or outside the store's {store.n_tokens} rows"
            )
        self._store, self._dtype, self._device = store, _dtype(dtype), as_device(device)
        self._order = RowOrder(start, stop, seed=int(seed), shuffle=shuffle)
        self._held: torch.device | None = None
        self._groups = GroupReader(store, self._sites, workers)
        self._loop, self._rank, self._ranks = loop, rank, ranks
        self._epoch = self._group = self._offset = 0

    @property
    def model(self) -> dict[str, Any]:
        """Model of the activations, as the manifest names it."""
        return self._store.model

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the store, for the provenance of what is made of it."""
        return self._store.fingerprint

    @property
    def text_fingerprint(self) -> str:
        """Fingerprint of the text, which other captures of it share."""
        return str(self._store.text.get("fingerprint") or "")

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

    @property
    def nbytes(self) -> int:
        """Size of all rows as they lie on disk: what :meth:`hold` needs."""
        row = sum(self._store.width(site) for site in self._sites)
        return self.n_rows * row * files.numpy_dtype(self._store.dtype).itemsize

    @property
    def held(self) -> torch.device | None:
        """Where all rows are in memory, if they are."""
        return self._held

    def hold(self, device: str | torch.device) -> None:
        """Read every row into the memory of ``device`` now; batches then come from there.

        Order, values and positions stay what they are, bit for bit. Nothing checks here whether
        :attr:`nbytes` fit.
        """
        self._device = self._held = as_device(device)
        self._groups.hold(self._order, self._device)

    def close(self) -> None:
        """End the reading threads; a later batch starts them again."""
        self._groups.close()

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Batches from the current position on; with ``loop`` for ever and all of full size.

        Raises:
            ConfigError: no batch size.
            DamagedDataError: a shard that is not what was written.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        while True:
            pieces: list[dict[str, Tensor]] = []
            taken, wanted, ended = 0, batch_size * self._ranks, False
            while taken < wanted and not ended:
                # Of the rows that all readers take together, ours are every ``ranks``-th.
                piece, n, ended = self._take(wanted - taken, (self._rank - taken) % self._ranks)
                taken += n
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

        Where all rows of the store are read, so is the end: a store that has grown since gives the
        rows of then, and the run that goes on is the one that was begun.

        Raises:
            MismatchError: a position in other rows, in another text, or in rows that are gone.
        """
        order, now = self._order, self.state_dict()
        for key in ("kind", "store", "start", "stop"):
            ours = now[key]
            if state.get(key) != ours and not (key == "stop" and self._check_end(state)):
                raise MismatchError(
                    f"this position belongs to a source with {key} {state.get(key)!r}, not {ours!r}"
                )
        self._groups.forget()
        self._order = RowOrder(
            order.start, int(state["stop"]), seed=int(state["seed"]), shuffle=bool(state["shuffle"])
        )
        self._epoch, self._group = int(state["epoch"]), int(state["group"])
        self._offset = int(state["offset"])

    def _check_end(self, state: dict[str, Any]) -> bool:
        """Whether the rows of a position are ours, or the store has grown since it was taken."""
        stop, ours = int(state["stop"]), self._order.stop
        if stop == ours or (self._all_rows and stop < ours):
            return True
        if self._all_rows and stop > ours:
            raise MismatchError(
                f"this position is in {stop} rows, but the store in {self._store.url} has {ours}: "
                "rows are missing. Capture the rest of the text into it"
            )
        return False

    def _take(self, most: int, first: int) -> tuple[dict[str, Tensor], int, bool]:
        """Go on by at most ``most`` rows of the current group.

        Gives every ``ranks``-th of them from the ``first`` on, how many they are with those of the
        other readers, and whether the epoch ends with them.
        """
        rows = self._groups.get(self._order, self._epoch, self._group, loop=self._loop)
        span = rows.order[self._offset : self._offset + most]
        mine = span[first :: self._ranks]
        piece = {
            site: values[mine].to(self._device, non_blocking=True).to(self._dtype)
            for site, values in rows.values.items()
        }
        self._offset += len(span)
        if self._offset < len(rows.order):
            return piece, len(span), False
        self._group, self._offset = self._group + 1, 0
        if self._group < self._order.n_groups:
            return piece, len(span), False
        self._epoch, self._group = self._epoch + 1, 0
        return piece, len(span), True


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _inside(found: tuple[int, int], start: int, stop: int | None) -> tuple[int, int]:
    return max(start, found[0]), found[1] if stop is None else min(stop, found[1])


def _dtype(name: str) -> torch.dtype:
    known = ("float32", "float16", "bfloat16", "float64")
    if name not in known:
        raise ConfigError(f"dtype must be one of {', '.join(known)}, got {name!r}")
    return getattr(torch, name)
