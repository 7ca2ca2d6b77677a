"""Steps as CUDA graphs: what the host launched once is launched again by the device.

A step of one large dictionary is some sixty kernels; launching them costs the host about as long as
a step of 4096 tokens costs the device. A graph replays them with one launch. It replays the very
same reads and writes, so all that changes between two steps must lie in memory that stays where it
is, and numbers of the host (sizes, here the list of dead latents) must not change.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

WARM_STEPS = 3
"""Steps that run as usual first: kernels are compiled, buffers and library handles made."""
AGAIN = 1
"""The same where only the list of dead latents is another."""

Action = Callable[[], None]


@dataclass
class _Recording:
    depends: tuple[Any, ...]
    left: int
    """Steps to run as usual before it is recorded."""
    replay: Action | None = None


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(x is y or _equal(x, y) for x, y in zip(a, b, strict=True))


def _equal(a: Any, b: Any) -> bool:
    """By value, but tensors by identity: a graph reads the memory of one."""
    tensors = isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor)
    return not tensors and bool(a == b)


class CudaRecorder:
    """Records an action without running it; all graphs share one pool, for they never overlap."""

    def __init__(self) -> None:
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, action: Action) -> Action:
        """What to call instead of ``action``.

        Raises:
            RuntimeError: something in it cannot be recorded, such as a wait for the device.
        """
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Other threads (that read ahead) may use the device meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                action()
            except RuntimeError:
                _end_broken(graph)
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph.replay


def _end_broken(graph: torch.cuda.CUDAGraph) -> None:
    try:
        graph.capture_end()
    except RuntimeError:
        return  # it reports once more what made the recording fail


@dataclass
class Graphs:
    """Actions by name, recorded once they are warm, and again when what they depend on changes."""

    say: Callable[[str], None]
    recorder: Callable[[Action], Action]
    recordings: dict[Any, _Recording] = field(default_factory=dict[Any, _Recording])
    off: bool = False
    """True after something could not be recorded; from then on actions just run."""

    def run(self, name: Any, depends: tuple[Any, ...], action: Action) -> None:
        """Do what ``action`` does."""
        if self.off:
            return action()
        found = self.recordings.get(name)
        if found is None or not _same(found.depends, depends):
            found = _Recording(depends, WARM_STEPS if found is None else AGAIN)
            self.recordings[name] = found
        if found.left:
            found.left -= 1
            return action()
        if found.replay is None:
            try:
                found.replay = self.recorder(action)
            except RuntimeError as error:
                self.off = True
                self.recordings.clear()
                reason = str(error).strip().split("\n")[0]
                self.say(f"steps are launched one by one, without CUDA graphs: {reason}")
                return action()
        return found.replay()
