"""Models, stores and runs that several pages and browser tabs use at once, each opened once.

Whoever runs a model holds its lock: ``with running(name) as model``. Two tabs that edit one model
therefore take turns, and neither sees the other's edits. Stores are looked at again whenever their
manifest changes, so one that is deleted while its page is open is missed at the next click.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lensbench.app.workflows.models import open_model
from lensbench.errors import LensbenchError, MissingDataError

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.saes.latents.contexts import Encoded
    from lensbench.saes.runs import SAERun
    from lensbench.store import ActivationStore

T = TypeVar("T")
MODELS, STORES, RUNS = 2, 128, 32
"""How many of each stay open; stores take little, and selectors name the models of all of them."""
RUN_BYTES = 2 << 30
"""Weights of dictionaries that stay in memory, over all runs."""
LATENTS, LATENT_BYTES = 8, 512 << 20
"""Dictionaries whose latents of a store stay in memory, and how much they may take together."""
RETRY = 30.0
"""Seconds before a model that could not be opened is tried again."""


@dataclass(frozen=True, eq=False)
class HeldModel:
    """A model, and the lock under which it is run."""

    model: "Model"
    lock: RLock = field(default_factory=RLock)


class Shelf(Generic[T]):
    """The most recently used values by key; each is made once, whoever asks first."""

    def __init__(
        self, limit: int, weigh: Callable[[T], int] | None = None, budget: int = 0
    ) -> None:
        self._limit, self._guard = limit, Lock()
        self._weigh, self._budget = weigh, budget
        self._values: OrderedDict[Any, T] = OrderedDict()
        self._making: dict[Any, RLock] = {}

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """The value of ``key``, made now if it is not there."""
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            turn = self._making.setdefault(key, RLock())
        with turn:  # a second caller waits here, and then finds it
            with self._guard:
                if key in self._values:
                    return self._values[key]
            try:
                made = make()
            finally:
                with self._guard:
                    self._making.pop(key, None)
            with self._guard:
                self._values[key] = made
                while len(self._values) > 1 and self._full():
                    self._values.popitem(last=False)
            return made

    def peek(self, key: Any) -> T | None:
        """The value of ``key`` if it is there."""
        with self._guard:
            return self._values.get(key)

    def put(self, key: Any, value: T) -> None:
        """Keep a value that was made elsewhere, in place of what was there."""
        self.drop(key)
        self.get(key, lambda: value)

    def drop(self, key: Any) -> None:
        """Forget one value, if it is there."""
        with self._guard:
            self._values.pop(key, None)

    def _full(self) -> bool:
        """More than may be kept, by number or by weight?"""
        if len(self._values) > self._limit:
            return True
        weigh = self._weigh
        return weigh is not None and sum(map(weigh, self._values.values())) > self._budget

    def clear(self) -> None:
        """Forget everything."""
        with self._guard:
            self._values.clear()


_models: Shelf[HeldModel] = Shelf(MODELS)
_stores: "Shelf[ActivationStore]" = Shelf(STORES)
_runs: "Shelf[list[SAERun]]" = Shelf(RUNS, lambda runs: sum(map(_bytes, runs)), RUN_BYTES)
_latents: "Shelf[Encoded | None]" = Shelf(
    LATENTS, lambda held: held.nbytes if held else 0, LATENT_BYTES
)
_failed: dict[tuple[str, str | None], tuple[float, LensbenchError]] = {}


def hold_model(name: str, revision: str | None = None) -> HeldModel:
    """The model of that name, opened once for the whole process.

    A name that could not be opened is not tried again for half a minute (a hub out of reach would
    stop every click), and the same error comes back.

    Raises:
        MissingDataError, DamagedDataError: as :func:`open_model`.
    """
    key = (name, revision)
    when, error = _failed.get(key, (0.0, None))
    if error is not None and time.monotonic() - when < RETRY:
        raise error.with_traceback(None)
    try:
        return _models.get(key, lambda: HeldModel(open_model(name, revision)))
    except LensbenchError as error:
        _failed[key] = (time.monotonic(), error)
        raise


def opened(name: str, revision: str | None = None) -> "Model | None":
    """The model of that name if it is open already; it is not opened."""
    held = _models.peek((name, revision))
    return None if held is None else held.model


@contextmanager
def running(name: str, revision: str | None = None) -> "Generator[Model]":
    """The model, for the caller alone until the block ends."""
    held = hold_model(name, revision)
    with held.lock:
        yield held.model


def hold_store(url: str) -> "ActivationStore":
    """The store at ``url`` as it is now.

    Raises:
        MissingDataError: none is there (any more).
    """
    from lensbench.store import ActivationStore
    from lensbench.store.folder import open_folder

    version = store_version(url)
    return _stores.get((url, version), lambda: ActivationStore(open_folder(url), check="size"))


def store_version(url: str) -> tuple[int, ...]:
    """Changes whenever the store does; the key under which anything read from it may be kept.

    Raises:
        MissingDataError: no store is there (any more).
    """
    from lensbench.store.manifest import MANIFEST, PARTS

    if "://" in url:
        return ()
    manifest, parts = Path(url) / MANIFEST, Path(url) / PARTS
    if not manifest.is_file():
        raise MissingDataError(
            f"no activation store in {url} (any more); choose another one, or make one with "
            f"`lensbench capture --out {quote(url)}`"
        )
    seen = manifest.stat()
    return (seen.st_mtime_ns, seen.st_size, parts.stat().st_mtime_ns if parts.is_dir() else 0)


def hold_runs(folder: Path) -> "list[SAERun]":
    """The finished dictionaries of a run; empty where none is finished yet."""
    from lensbench.app.workflows.runs import all_runs

    def read() -> "list[SAERun]":
        try:
            return all_runs(folder)
        except MissingDataError:
            return []

    return _runs.get((str(folder), _stamps(folder)), read)


def hold_latents(
    folder: Path, name: str, store: str, make: "Callable[[], Encoded | None]"
) -> "Encoded | None":
    """What a dictionary of a run gives on a store, encoded once; None where that is too much."""
    return _latents.get((str(folder), _stamps(folder), name, store, store_version(store)), make)


def _stamps(folder: Path) -> tuple[int, ...]:
    """Change with what is finished of a run."""
    from lensbench.app.workflows.runs import parts_of

    return tuple((p / "status.json").stat().st_mtime_ns for p in parts_of(folder))


def _bytes(run: "SAERun") -> int:
    return sum(array.nbytes for array in run.weights.values())


def forget() -> None:
    """Close everything (tests, and a button for memory)."""
    for shelf in (_models, _stores, _runs, _latents):
        shelf.clear()
    _failed.clear()
