"""A queue between a source and training: a thread reads the next batches while a step runs.

Meant for a model that runs on another device than its dictionaries. Order and content are those of
the source; a position is that after the last batch that was *taken*, not of what lies in the queue.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.protocols import ActivationSource

WAIT = 0.1
"""Seconds between two looks at whether the other side is still there."""


@contextmanager
def read_ahead(source: Any, depth: int) -> Generator[Any, None, None]:
    """``source``, with up to ``depth`` batches ready; itself where ``depth`` is 0.

    Raises:
        ConfigError: a source without sites and a position.
    """
    if depth == 0:
        yield source
        return
    if not isinstance(source, ActivationSource):
        raise ConfigError(
            f"train.prefetch is {depth}, but a {type(source).__name__} is no ActivationSource (it "
            "has no sites or no position); set it to 0, or train from a store or a live capture"
        )
    ahead = Ahead(source, depth)
    try:
        yield ahead
    finally:
        ahead.close()


class Ahead:
    """See :func:`read_ahead`."""

    def __init__(self, source: ActivationSource, depth: int) -> None:
        self._source, self._depth = source, depth
        self._state = source.state_dict()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        """Whatever else the source tells: its model, its number of rows."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites on offer."""
        return self._source.sites

    def width(self, site: str) -> int:
        """Width of a site's vectors."""
        return self._source.width(site)

    def batches(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Those of the source; what it raises is raised here, after the batches before it."""
        if self._thread is not None:  # it has read further than was taken
            self.load_state_dict(self._state)
        ready: queue.Queue[Any] = queue.Queue(self._depth)
        self._stop = stop = threading.Event()
        job = (ready, batch_size, stop)
        self._thread = threading.Thread(
            target=self._fill, args=job, name="read-ahead", daemon=True
        )  # fmt: skip
        self._thread.start()
        while True:
            batch, state, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            self._state = state
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was taken."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; what was read ahead is forgotten."""
        self.close()
        self._source.load_state_dict(state)
        self._state = self._source.state_dict()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _fill(self, ready: "queue.Queue[Any]", batch_size: int, stop: threading.Event) -> None:
        try:
            for batch in self._source.batches(batch_size):
                if not _put(ready, (batch, self._source.state_dict(), None), stop):
                    return
            _put(ready, (None, None, None), stop)
        except BaseException as error:  # handed to the thread that trains
            _put(ready, (None, None, error), stop)


def _put(ready: "queue.Queue[Any]", item: Any, stop: threading.Event) -> bool:
    """Whether there was room before the other side ended."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=WAIT)
        except queue.Full:
            continue
        return True
    return False
