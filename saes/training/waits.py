"""How long training stood still for data: what a faster source could save at most."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


class Waits:
    """Seconds in which the trainer waited for its next batch, of those since the first batch.

    ``share = (time in next() + time the device stood at a copy) / time since the first batch``,
    in 0..1. An upper bound: on a GPU the host may wait while earlier steps still run. Reading
    without read-ahead is waiting from end to end. The first batch, which nothing can hide, and the
    time before a resume are not counted.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._asked, self._waited = 0, 0.0
        self._stalls: list[tuple[Any, Any]] = []
        self._marked = (0.0, 0.0)
        self._window = (-1, 0.0)

    @property
    def counted(self) -> bool:
        """Whether there was more than one batch."""
        return self._asked > 1

    @contextmanager
    def timed(self) -> Generator[None, None, None]:
        """Around the asking for one batch."""
        start = time.perf_counter()
        yield
        now = time.perf_counter()
        self._asked += 1
        if self._began is None:
            self._began = now
            self._marked = (now, 0.0)
        else:
            self._waited += now - start

    def stalled(self, events: tuple[Any, Any] | None) -> None:
        """CUDA events before and after a wait on the device; read when they have passed."""
        if events is not None and self._began is not None:
            self._stalls.append(events)

    @property
    def seconds(self) -> float:
        """Seconds waited so far."""
        open_: list[tuple[Any, Any]] = []
        for before, after in self._stalls:
            if after.query():
                self._waited += before.elapsed_time(after) / 1e3
            else:
                open_.append((before, after))
        self._stalls = open_
        return self._waited

    def share(self) -> float:
        """Share of the time since the first batch."""
        return 0.0 if self._began is None else self._part(self._began, 0.0)

    def window(self, step: int) -> float:
        """The same since it was asked for an earlier step (asked again at ``step``: the same)."""
        if self._began is not None and self._window[0] != step:
            self._window = (step, self._part(*self._marked))
            self._marked = (time.perf_counter(), self.seconds)
        return self._window[1]

    def _part(self, since: float, waited: float) -> float:
        passed = time.perf_counter() - since
        return min(1.0, max(0.0, (self.seconds - waited) / passed)) if passed > 0 else 0.0
