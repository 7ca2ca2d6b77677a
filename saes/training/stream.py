"""One view of every kind of source: named sites, batches of one size, a position to come back to.

An :class:`~lensbench.protocols.ActivationSource` (store, live capture) brings sites and a position.
An activation store is asked for its source. A list of batches ``{site: tensor}`` names its sites.
Anything else that yields tensors ``[batch, d]`` is one nameless site; it can be resumed only if it
has ``state_dict`` and ``load_state_dict``.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.errors import ConfigError, DataError, MismatchError, UnknownSiteError
from lensbench.protocols import ActivationSource
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.configs import TrainConfig
from lensbench.saes.ends import Ends
from lensbench.saes.training import contents
from lensbench.saes.training.ahead import Batch, ReadAhead, Ready, Transfer
from lensbench.saes.training.waits import Waits
from lensbench.sites import Site

NAMELESS = "activations"
"""Site of a source that names none."""
AHEAD = 2
"""Batches read ahead for a GPU: one is copied while the other is made."""


class Stream:
    """Batches ``{site: [batch_size, d] float32}`` on one device.

    ``ahead`` batches are made by a thread before they are asked for (0: none; None: 2 for a GPU,
    0 for a CPU and for rows that lie on the device already). They, their order and every position
    are the same for any number.
    """

    def __init__(
        self,
        source: Any,
        sites: list[str],
        batch_size: int,
        device: torch.device,
        *,
        ahead: int | None = 0,
    ) -> None:
        self._source, self._sites = source, sites
        self._batch_size, self.device = batch_size, device
        self._named = isinstance(source, ActivationSource)
        self._iterator: Iterator[Any] | None = None
        self._batches, self._restored = 0, False
        self._widths = {s: source.width(s) for s in sites} if self._named else dict[str, int]()
        self._depth = _depth(source, device) if ahead is None else ahead
        self._transfer, self.waits = Transfer(device), Waits()
        self._tells = callable(getattr(source, "state_dict", None))
        self._thread: ReadAhead | None = None
        self._kept: deque[Batch] = deque()
        self._position: Any = None

    @property
    def _returns(self) -> bool:
        return callable(getattr(self._source, "load_state_dict", None))

    @property
    def stored(self) -> int:
        """Tokens in one pass over the source; 0 where it cannot say (a live capture)."""
        return int(getattr(self._source, "n_rows", 0)) if self._named else 0

    @property
    def fingerprints(self) -> tuple[str, str]:
        """Of the store that is read and of its text; empty for another source."""
        source = self._source
        return getattr(source, "fingerprint", ""), getattr(source, "text_fingerprint", "")

    @property
    def widths(self) -> dict[str, int]:
        """Numbers per activation, by site, as far as they are known."""
        return dict(self._widths)

    def expect(self, widths: dict[str, int]) -> None:
        """Refuse batches of other widths from now on.

        Raises:
            MismatchError: the source already says another one.
        """
        for site, width in widths.items():
            if self._widths.get(site, width) != width:
                raise MismatchError(
                    f"{site} is {self._widths[site]} wide in this source, but the checkpoint was "
                    f"trained on width {width}; resume with the source of the run"
                )
        self._widths |= widths

    def next(self) -> Batch:
        """The next batch.

        Raises:
            DataError: the source has no more full batch.
            MismatchError: a batch of another shape than was said.
        """
        with self.waits.timed():
            if self._depth and self._thread is None:
                self._thread = ReadAhead(self._make, self._depth)
            ready = self._thread.next() if self._thread else self._make()
            self._position = ready.position
            self.waits.stalled(self._transfer.receive(ready))
            return ready.batch

    def close(self) -> None:
        """End the thread that reads ahead and leave the source after the last batch given out."""
        if self._thread is None:
            return
        ended, self._thread = self._thread.close(), None
        if ended and self._position is not None and self._returns:
            self._source.load_state_dict(self._position)
            self._iterator = None

    def save(self, run: Path | None, step: int) -> dict[str, Any] | None:
        """Position after the last batch given out; None where the source cannot say.

        What a source holds (a mixing buffer), and batches that were read ahead of it, go into a
        file under ``run``.
        """
        if not self._tells:
            return None
        if not _holds(self._source) or run is None:
            return self._source.state_dict() if self._position is None else self._position
        with self._thread.paused() if self._thread else nullcontext([]) as ready:
            waiting = [*(r.landed() for r in ready), *self._kept]
            held = {f"held.{n}": t for n, t in self._source.state_tensors().items()}
            for i, batch in enumerate(waiting):
                held |= {f"batch.{i}.{site}": x for site, x in batch.items()}
            entry = contents.write(run, step, held) | {"batches": len(waiting)}
            return {"position": self._source.state_dict(), "contents": entry}

    def restore(self, state: dict[str, Any] | None, run: Path | None = None) -> None:
        """Go back to a position.

        Raises:
            ConfigError: the source cannot do that.
            DataError: what the source held is gone or damaged.
        """
        if state is None or not self._returns:
            raise ConfigError(
                f"a {type(self._source).__name__} cannot be resumed: it has no state_dict() and "
                "load_state_dict(). Train from a store or a live capture, or add them"
            )
        self._iterator, self._restored = None, True
        entry = state.get("contents")
        if not isinstance(entry, dict) or run is None:
            self._source.load_state_dict(state)
            self._position = state if self._depth else None
            return
        self._source.load_state_dict(state["position"])
        held = contents.read(run, entry)
        for i in range(int(entry["batches"])):
            self._kept.append({s: held.pop(f"batch.{i}.{s}") for s in self._sites})
        self._source.load_state_tensors({n.removeprefix("held."): t for n, t in held.items()})

    def _make(self) -> Ready:
        """Read one batch and send it to the device; by the thread where there is one."""
        batch = self._kept.popleft() if self._kept else self._read()
        # Without a thread the source itself stands where the trainer is.
        noted = self._depth and self._tells and not _holds(self._source)
        position = self._source.state_dict() if noted else None
        sent, copies = self._transfer.send(batch)
        return Ready(sent, position, copies)

    def _read(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._open()
        found = next(self._iterator, None)
        if found is None and self._restarts():
            self._iterator = self._open()
            found = next(self._iterator, None)
        short = found is not None and self._named and len(found[self._sites[0]]) < self._batch_size
        if found is None or short:
            raise DataError(
                f"the source ended after {self._batches} batches of {self._batch_size}; lower "
                "train.tokens, or use a source that starts over (loop=True)"
            )
        self._batches += 1
        batch = found if isinstance(found, Mapping) else {self._sites[0]: found}
        if absent := [site for site in self._sites if site not in batch]:
            raise MismatchError(f"a batch of the source lacks {', '.join(absent)}")
        return {site: self._checked(site, batch[site]) for site in self._sites}

    def _open(self) -> Iterator[Any]:
        if self._named:
            return iter(self._source.batches(self._batch_size))
        return iter(self._source)

    def _restarts(self) -> bool:
        """Whether a finished source can be read again from its start (a list can)."""
        if self._named or iter(self._source) is self._source:
            return False
        # A source that was restored at the very end of an epoch has nothing left, once.
        restored, self._restored = self._restored, False
        return self._batches > 0 or restored

    def _checked(self, site: str, x: Any) -> Tensor:
        if not isinstance(x, Tensor) or x.ndim != 2:
            what = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise MismatchError(f"the source gave {what}; batches must be tensors [batch, d]")
        if len(x) != self._batch_size:
            raise MismatchError(
                f"the source gave a batch of {len(x)} rows; train.batch_size is "
                f"{self._batch_size}: make the two agree"
            )
        if x.shape[1] != self._widths.setdefault(site, x.shape[1]):
            raise MismatchError(
                f"{site} is {x.shape[1]} wide in a batch; it should be {self._widths[site]}"
            )
        return x


def open_stream(source: Any, sites: list[str], train: TrainConfig, device: torch.device) -> Stream:
    """The stream that a run reads."""
    return Stream(source, sites, train.batch_size, device, ahead=train.read_ahead)


def card_of(source: Any) -> dict[str, Any]:
    """Model of the activations, as a store or a live capture names it; empty for other sources."""
    told = getattr(source, "model", None)
    return dict(told) if isinstance(told, Mapping) else {}


def _depth(source: Any, device: torch.device) -> int:
    """Batches read ahead where nobody says: what a GPU can make use of."""
    return AHEAD if device.type == "cuda" and _place(source) != "cuda" else 0


def _place(source: Any) -> str | None:
    """Kind of device on which all rows lie, if they do."""
    return getattr(getattr(source, "held", None), "type", None)


def _holds(source: Any) -> bool:
    """Whether a source has tensors beside its position (see ``harvest.mixing``)."""
    return callable(getattr(source, "state_tensors", None))


def open_source(source: Any, configs: list[DictionaryConfig]) -> tuple[Any, list[Ends]]:
    """A source that can be streamed, and what every dictionary reads and writes of it.

    Raises:
        ConfigError: a source that yields nothing, or a dictionary that must name its site.
        UnknownSiteError: a site that the source has not.
    """
    named = [site for c in configs for site in (c.site, c.target, *(c.sites or ())) if site]
    if not isinstance(source, ActivationSource) and callable(getattr(source, "source", None)):
        chosen = sorted({_known(s, tuple(source.sites)) for s in named}) or list(source.sites)
        # In the type on disk: halves are widened on the device, after half the way.
        kind = getattr(source, "dtype", None)
        source = source.source(chosen, **({"dtype": kind} if isinstance(kind, str) else {}))
    if isinstance(source, ActivationSource):
        return source, [_ends(config, source.sites) for config in configs]
    if isinstance(source, Sequence) and source and isinstance(source[0], Mapping):
        return source, [_ends(config, tuple(source[0])) for config in configs]
    if not isinstance(source, Iterable):
        raise ConfigError(
            f"cannot read activations from a {type(source).__name__}; pass a store, a live "
            "capture, an iterable of tensors [batch, d], or a list of {site: tensor}"
        )
    if len(set(named)) > 1:
        raise ConfigError(
            f"an iterable of tensors is one site, but the sweep names {sorted(set(named))}; use a "
            "store for several"
        )
    return source, [Ends.of(config, NAMELESS) for config in configs]


def _ends(config: DictionaryConfig, known: tuple[str, ...]) -> Ends:
    if config.site is None and config.sites is None and len(known) != 1:
        raise ConfigError(
            f"{config.name} names no site and the source has {len(known)}: {', '.join(known)}"
        )
    ends = Ends.of(config, known[0])
    reads, writes = (
        tuple(_known(site, known) for site in side) for side in (ends.reads, ends.writes)
    )
    if twice := [site for site in reads if reads.count(site) > 1]:
        raise ConfigError(f"sites of {config.name} names {twice[0]} twice")
    if not ends.same and reads == writes:
        raise ConfigError(f"site and target of {config.name} are one: {reads[0]}")
    return Ends(reads, writes)


def _known(site: str, known: tuple[str, ...]) -> str:
    name = site if site in known else str(Site.parse(site))
    if name not in known:
        raise UnknownSiteError(site, known=known, hint="Capture it, or train on another.")
    return name
