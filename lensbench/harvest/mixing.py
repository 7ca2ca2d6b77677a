"""A live capture through a mixing buffer: half of it is given out, then that half is refilled.

1. Run the model until the buffer holds ``capacity`` rows, whole forward batches at a time; what
   does not fit waits for the next time.
2. Draw a permutation of all rows held, from a generator of its own.
3. Give out the rows of its first half; the others stay, and meet the next ones in 1.
4. At the end of the text give out all that is left: every row comes once per epoch.

A row stays for two refills on average, so a batch mixes text further apart than the buffer is long.
Source: the buffers of SAELens and dictionary_learning do the same, but forget it when they stop.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError, DamagedDataError, MismatchError
from lensbench.harvest.describe import model_entry
from lensbench.harvest.feed import Feed, Rows, full_batches, no_rows
from lensbench.sites import Site


class MixedSource:
    """An ``ActivationSource`` over a model, mixed in a buffer: ``live_source(mixing=...)``.

    Its position (:meth:`state_dict`) says everything; what the buffer holds
    (:meth:`state_tensors`) spares a resumed run the forward passes since the epoch began, and is
    exact where a GPU's are not.
    """

    def __init__(self, feed: Feed, capacity: int, *, seed: int, loop: bool) -> None:
        if capacity < 2:
            raise ConfigError(f"mixing must be at least 2 tokens (half stays), got {capacity}")
        self._feed, self._capacity, self._seed, self._loop = feed, capacity, int(seed), loop
        self._values: Rows = {}
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._mixes, self._given, self._serve = epoch, 0, 0, 0
        self._ended = False
        self._order = torch.empty(0, dtype=torch.long)
        self._spill: Rows = {}
        self._restoring: dict[str, Any] | None = None
        self._generator = np.random.default_rng([self._seed, epoch])
        self._feed.seek(0)

    @property
    def model(self) -> dict[str, Any]:
        """Identity and shape of the model that is run."""
        return model_entry(self._feed.model)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites in every batch."""
        return tuple(self._feed.entries)

    def width(self, site: str) -> int:
        """Numbers per row of a site."""
        return self._feed.entries[str(Site.parse(site))].width

    @property
    def nbytes(self) -> int:
        """Most that the buffer takes, on the model's device; beside it, one forward batch."""
        row = sum(self.width(site) for site in self.sites)
        return self._capacity * row * self._feed.dtype.itemsize

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Batches from the current position on; with ``loop`` for ever and all of full size.

        Raises:
            ConfigError: the text gives no row.
            NonFiniteError: NaN or infinity among the activations.
        """
        return full_batches(self._take, self.sites, batch_size, loop=self._loop)

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, mixes so far, rows given of the last one, and the generator."""
        if self._restoring is not None:
            return dict(self._restoring)
        return {
            "kind": "mixing",
            "text": self._identity(),
            "seed": self._seed,
            "epoch": self._epoch,
            "mixes": self._mixes,
            "given": self._given,
            "serve": self._serve,
            "held": len(self._order) - self._given,
            "forward": self._feed.done,
            "ended": self._ended,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; without :meth:`load_state_tensors` its epoch is run again up to it.

        Raises:
            MismatchError: a position in another text, layout or buffer.
        """
        for key, ours in (("kind", "mixing"), ("text", self._identity())):
            if state.get(key) != ours:
                raise MismatchError(
                    f"this position belongs to a source with {key} {state.get(key)!r}, not {ours!r}"
                )
        self._seed = int(state["seed"])
        self._begin(int(state["epoch"]))
        self._restoring = dict(state)

    def state_tensors(self) -> dict[str, Tensor]:
        """Rows held and not given out yet, in the order in which they were drawn."""
        self._restore()
        left = self._order[self._given :]
        held = {f"rows.{s}": v[left.to(v.device)] for s, v in self._values.items() if len(left)}
        return held | {f"spill.{s}": v for s, v in self._spill.items()}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """What :meth:`state_tensors` gave at the position that was loaded last.

        Raises:
            MismatchError: no position was loaded.
            DamagedDataError: other rows than that position has.
        """
        state = self._restoring
        if state is None:
            raise MismatchError("load the position (load_state_dict) before what the buffer held")
        rows = {s: tensors[f"rows.{s}"] for s in self.sites if f"rows.{s}" in tensors}
        spill = {s: tensors[f"spill.{s}"] for s in self.sites if f"spill.{s}" in tensors}
        held = int(state["held"])
        wanted = {s: (held, self.width(s)) for s in self.sites} if held else {}
        if {s: tuple(v.shape) for s, v in rows.items()} != wanted or len(rows) + len(spill) != len(
            tensors
        ):
            shapes = {name: list(v.shape) for name, v in tensors.items()}
            raise DamagedDataError(f"a mixing buffer of {held} rows cannot hold {shapes}")
        self._restoring = None
        self._mixes, self._ended = int(state["mixes"]), bool(state["ended"])
        # Rows given out are gone: what is left begins at slot 0, in the order drawn.
        self._given, self._serve = int(state["given"]), int(state["serve"])
        self._order = torch.cat([torch.full((self._given,), -1), torch.arange(held)])
        where = getattr(getattr(self._feed, "model", None), "device", torch.device("cpu"))
        for site, values in rows.items():
            self._room(site, values.to(where))[:held] = values.to(where)
        self._spill = spill
        self._generator.bit_generator.state = state["generator"]
        self._feed.seek(int(state["forward"]))

    def _identity(self) -> str:
        return self._feed.identity("mixing", self._capacity)

    def _take(self, wanted: int) -> Rows | None:
        """At most ``wanted`` rows of the current mix; None at the end of an epoch."""
        self._restore()
        if self._given == self._serve:
            if self._ended:
                if not self._mixes:
                    raise no_rows()
                self._begin(self._epoch + 1)
                return None
            self._mix()
            return self._take(wanted) if self._serve == 0 else self._rows(wanted)
        return self._rows(wanted)

    def _rows(self, wanted: int) -> Rows:
        span = self._order[self._given : min(self._given + wanted, self._serve)]
        self._given += len(span)
        return {site: values[span.to(values.device)] for site, values in self._values.items()}

    def _mix(self) -> None:
        """Fill the slots that were given out, and draw which rows come next."""
        kept = self._order[self._given :]
        used = torch.zeros(self._capacity, dtype=torch.bool)
        used[kept] = True
        free = torch.nonzero(~used)[:, 0]
        filled = self._fill(free)
        held = torch.cat([kept, free[:filled]])
        self._given = 0
        self._serve = len(held) if self._ended else len(held) - self._capacity // 2
        self._order = held
        if len(held):
            self._mixes += 1
            self._order = held[torch.from_numpy(self._generator.permutation(len(held)))]

    def _fill(self, free: Tensor) -> int:
        """Rows into the free slots until they are full or the text ends; how many."""
        filled = 0
        while filled < len(free):
            rows = self._spill or self._feed.next()
            if rows is None:
                self._ended = True
                return filled
            n = len(next(iter(rows.values())))
            fits = min(n, len(free) - filled)
            slots = free[filled : filled + fits]
            for site, values in rows.items():
                room = self._room(site, values)
                room[slots.to(room.device)] = values[:fits].to(room.device)
            self._spill = {s: v[fits:].clone() for s, v in rows.items()} if fits < n else {}
            filled += fits
        return filled

    def _room(self, site: str, like: Tensor) -> Tensor:
        if site not in self._values:
            shape = self._capacity, self.width(site)
            self._values[site] = like.new_empty(shape, dtype=self._feed.dtype)
        return self._values[site]

    def _restore(self) -> None:
        """Run the epoch again up to a position whose rows nobody kept."""
        if self._restoring is None:
            return
        state, self._restoring = self._restoring, None
        for _ in range(int(state["mixes"])):
            self._given = self._serve
            self._mix()
        self._given = int(state["given"])
