"""A thread that makes batches before they are asked for, and the copy to a GPU beside the step.

1. The thread makes a batch, notes the position of its source, and waits while ``depth`` are ready.
2. For a GPU it copies each batch into one of two pinned buffers and from there to the device, on a
   CUDA stream of its own; a buffer is written again when its copy is done.
3. What is given out waits for its copy on the device, not on the host.

Positions are those of what was *given out*, so a checkpoint knows nothing of what was read ahead.
"""

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Tensor]
NAME = "lensbench-read-ahead"
_PATIENCE = 30.0
"""Seconds that an ended run waits for a batch under way."""


@dataclass(frozen=True)
class Ready:
    """A batch on its device, the source's position after it, and the copies it waits for."""

    batch: Batch
    position: Any = None
    copies: list[Any] = field(default_factory=list[Any])

    def landed(self) -> Batch:
        """The batch, once the host has waited for its copies."""
        for event in self.copies:
            event.synchronize()
        return self.batch


class ReadAhead:
    """Calls ``make`` in a thread, at most ``depth`` batches ahead of :meth:`next`.

    What ``make`` raises is raised by :meth:`next` when its turn comes.
    """

    def __init__(self, make: Callable[[], Ready], depth: int) -> None:
        self._make, self._depth = make, depth
        self._ready: deque[Ready] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._change = threading.Condition()
        self._making = threading.Lock()
        context, grad = contextvars.copy_context(), torch.is_grad_enabled()
        self._thread = threading.Thread(
            target=context.run, args=(self._work, grad), name=NAME, daemon=True
        )
        self._thread.start()

    def next(self) -> Ready:
        """The next batch; waits until there is one."""
        with self._change:
            while not self._ready and self._error is None:
                self._change.wait()
            if self._ready:
                found = self._ready.popleft()
                self._change.notify_all()
                return found
            assert self._error is not None
            raise self._error

    @contextmanager
    def paused(self) -> Generator[list[Ready], None, None]:
        """Nothing is made meanwhile; gives what is ready and was not given out."""
        with self._making:
            yield list(self._ready)

    def close(self) -> bool:
        """End the thread; a batch under way is waited for. Whether it ended."""
        with self._change:
            self._closed = True
            self._ready.clear()
            self._change.notify_all()
        self._thread.join(_PATIENCE)
        return not self._thread.is_alive()

    def _work(self, grad: bool) -> None:
        torch.set_grad_enabled(grad)  # of a thread, like the context
        while self._has_room():
            # Held until the batch is in the queue, so that a pause sees it in the source or there.
            with self._making:
                try:
                    made = self._make()
                except BaseException as error:  # handed on, Ctrl-C and SystemExit as well
                    self._put(None, error)
                    return
                self._put(made, None)

    def _has_room(self) -> bool:
        with self._change:
            while len(self._ready) >= self._depth and not self._closed:
                self._change.wait()
            return not self._closed

    def _put(self, made: Ready | None, error: BaseException | None) -> None:
        with self._change:
            if made is not None and not self._closed:
                self._ready.append(made)
            self._error = error
            self._change.notify_all()


class Transfer:
    """Batches to ``device`` as float32; to a GPU through two pinned buffers, without a wait.

    The numbers are those of a plain copy: halves travel as halves and are widened after.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._side = torch.cuda.Stream(device) if self._cuda else None
        self._buffers: list[Batch] = [{}, {}]
        self._done: list[Any] = [None, None]
        self._turn = 0

    def send(self, batch: Batch) -> tuple[Batch, list[Any]]:
        """The batch on the device, and the events after which it is there."""
        if not self._cuda:
            return {s: x.to(self._device, torch.float32) for s, x in batch.items()}, []
        with torch.cuda.device(self._device):
            there = {s: x for s, x in batch.items() if x.device.type != "cpu"}
            sent = {s: x.to(self._device, torch.float32) for s, x in there.items()}
            events = [torch.cuda.current_stream().record_event()] if there else []
            if here := {s: x for s, x in batch.items() if x.device.type == "cpu"}:
                copied, event = self._copy(here)
                sent, events = sent | copied, [*events, event]
            return {s: sent[s] for s in batch}, events

    def receive(self, ready: Ready) -> tuple[Any, Any] | None:
        """Let the current stream wait for the copies; the events before and after that wait."""
        if not self._cuda or not ready.copies:
            return None
        stream = torch.cuda.current_stream(self._device)
        before = stream.record_event(torch.cuda.Event(enable_timing=True))
        for event in ready.copies:
            stream.wait_event(event)
        for x in ready.batch.values():
            x.record_stream(stream)  # its memory is not given away before the step is done
        return before, stream.record_event(torch.cuda.Event(enable_timing=True))

    def _copy(self, batch: Batch) -> tuple[Batch, Any]:
        slot, self._turn = self._turn, 1 - self._turn
        if self._done[slot] is not None:
            self._done[slot].synchronize()  # the copy before the last has left this buffer
        sent: Batch = {}
        with torch.cuda.stream(self._side):
            for site, x in batch.items():
                pinned = self._pinned(slot, site, x).copy_(x)
                moved = pinned.to(self._device, non_blocking=True)
                sent[site] = moved.to(torch.float32)
            self._done[slot] = torch.cuda.current_stream().record_event()
        return sent, self._done[slot]

    def _pinned(self, slot: int, site: str, x: Tensor) -> Tensor:
        held = self._buffers[slot].get(site)
        if held is None or held.shape != x.shape or held.dtype != x.dtype:
            held = self._buffers[slot][site] = torch.empty_like(x, pin_memory=True)
        return held
