"""Which way a group steps: measured on the first batch, printed, and kept for the whole run.

- ``dense``: dictionary by dictionary, dense encoder product, everything after it sparse; on a GPU
  replayed as CUDA graphs.
- ``screened``: the same, with a bfloat16 product that only says where to look (exact).
- ``stacked``: all dictionaries of the group in batched dense products. On a GPU the faster way
  where d_sae / k is below about 150, which is measured, not assumed.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.saes.architectures import BatchTopKConfig, FixedK, TopKConfig
from lensbench.saes.step import gpu, update
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.gpu.graphs import CudaRecorder, Graphs
from lensbench.saes.step.group import Group
from lensbench.saes.step.looped import Looped
from lensbench.saes.step.precision import products_in
from lensbench.saes.step.resample import resample, resample_steps
from lensbench.saes.step.rules.base import Now, Objective
from lensbench.saes.step.stacked import stacked_gradients

Engine = Literal["dense", "screened", "stacked"]
STACKED_LIMIT = 2e11
"""Operations of one stacked step above which a CPU does not try it."""
REPEATS = 2
AFTER_ENCODER: dict[Engine, str] = {"dense": "sparse", "screened": "sparse", "stacked": "dense"}


def _silent(text: str) -> None:
    del text


@dataclass
class Stepper:
    """Steps of one group, with the engine it was given."""

    group: Group
    engine: Engine
    space: Workspace = field(default_factory=Workspace)
    say: Callable[[str], None] = _silent
    """Told when CUDA graphs cannot be used, and why."""

    def __post_init__(self) -> None:
        """Prepare the loop over dictionaries."""
        self._looped = Looped(screened=self.engine == "screened", space=self.space)
        self.graphs: Graphs | None = None
        if waits_for_nothing(self.group) and self.group.device.type == "cuda":
            self.graphs = Graphs(self.say, CudaRecorder())

    def step(
        self,
        x: Tensor,
        rates: list[float],
        now: Now,
        y: Tensor | None = None,
        objective: Callable[[int], Objective] | None = None,
    ) -> None:
        """One update of every dictionary that is alive, in the units of the source.

        ``objective`` gives that of each dictionary, where it is not the reconstruction.
        """
        group = self.group
        with products_in(self.space.precision):
            for i, config in enumerate(group.configs):
                group.rule.before(config, group.own(i), now)
                if group.alive[i] and now.step in resample_steps(config, now.steps):
                    resample(group, i, *group.seen(x, y), now)
            alone = y is not None or objective is not None
            if self.graphs is not None and not alone and self.engine != "stacked":
                self._replayed(self.graphs, x, rates, now)
                return
            x, y = group.seen(x, y)
            if self.engine == "stacked" and objective is None:
                for i, gradients in enumerate(stacked_gradients(group, x, now, y=y)):
                    if group.alive[i]:
                        update.apply(group, i, gradients, rates[i], len(x), now)
            else:
                for i in filter(group.alive.__getitem__, range(group.n)):
                    self._one(i, x, rates[i], now, y, objective and objective(i))

    def _one(
        self,
        i: int,
        x: Tensor,
        lr: float | Tensor,
        now: Now,
        y: Tensor | None = None,
        objective: Objective | None = None,
    ) -> None:
        found = self._looped.one(self.group, i, x, now, y, objective)
        if found is None:
            found = stacked_gradients(self.group, x, now, i, i + 1, y, objective)[0]
        update.apply(self.group, i, found, lr, len(x), now)

    def _replayed(self, graphs: Graphs, x: Tensor, rates: list[float], now: Now) -> None:
        """The same from graphs: what changes from step to step is put where they read it."""
        group = self.group
        held = self.space.get("graph.x", tuple(x.shape), group.b_dec)
        torch.mul(x, group.scale, out=held)
        speeds = self.space.get(f"graph.lr.{id(group)}", (group.n,), group.b_dec)
        for i in filter(group.alive.__getitem__, range(group.n)):
            speeds[i].fill_(rates[i])
            dead = group.dead_lists[i]
            depends = (len(x), dead if len(dead) else 0)
            # ``now`` of the recording stays: no rule of fixed k looks at it.
            graphs.run(i, depends, lambda i=i: self._one(i, held, speeds[i], now))

    def probe(self, x: Tensor, y: Tensor | None = None) -> float:
        """Seconds for the gradients of one step; nothing is updated."""
        group, now = self.group, Now()
        best, (x, y) = float("inf"), group.seen(x, y)
        with products_in(self.space.precision):
            for _ in range(REPEATS):
                _wait(x)
                start = time.perf_counter()
                if self.engine == "stacked":
                    stacked_gradients(group, x, now, y=y)
                else:
                    for i in range(group.n):
                        if self._looped.one(group, i, x, now, y) is None:
                            stacked_gradients(group, x, now, i, i + 1, y)
                _wait(x)
                best = min(best, time.perf_counter() - start)
        return best


def waits_for_nothing(group: Group) -> bool:
    """Whether the loop over listed codes never waits for a GPU: lists of a length known before."""
    first = group.configs[0]
    if gpu.runs_triton(group.device):
        return isinstance(first, TopKConfig | BatchTopKConfig)
    return isinstance(first, TopKConfig)


def candidates(group: Group, tokens: int, space: Workspace) -> list[Engine]:
    """Engines worth trying on this device."""
    if group.device.type != "cpu":
        return ["stacked", "dense"] if waits_for_nothing(group) else ["stacked"]
    work = 10.0 * group.n * tokens * (group.d_in + group.d_out) * group.d_sae
    exact = isinstance(group.configs[0], FixedK) and space.precision == "float32"
    found: list[Engine] = ["dense", "screened"] if exact else ["dense"]
    return [*found, "stacked"] if work < STACKED_LIMIT else found


def choose(
    group: Group, x: Tensor, space: Workspace, y: Tensor | None = None
) -> tuple[Engine, str]:
    """The fastest engine for a group and a line that says how that was found.

    Raises:
        ConfigError: no step fits the memory of the GPU.
    """
    if group.configs[0].objective != "reconstruction":
        return "dense", "dense (end to end: the model takes most of the time)"
    times: dict[Engine, float] = {
        e: _time(Stepper(group, e, space), x, y) for e in candidates(group, len(x), space)
    }
    best: Engine = min(times, key=lambda engine: times[engine])
    if times[best] == float("inf"):
        raise ConfigError(
            f"a step of {group.n} dictionaries of width {group.d_sae} on {len(x)} activations does "
            f"not fit in the memory of {group.device}; lower train.batch_size or d_sae, or train "
            "them in parts"
        )
    measured = ", ".join(f"{name} {_told(seconds)}" for name, seconds in times.items())
    first, how = group.configs[0], f"{best} ({measured} per step of {group.n})"
    if isinstance(first, FixedK):
        how += f": {AFTER_ENCODER[best]} after the encoder at d_sae / k = {first.d_sae / first.k:g}"
    return best, how


def _time(stepper: Stepper, x: Tensor, y: Tensor | None) -> float:
    """Seconds of a step; infinity where it does not fit in memory."""
    try:
        return stepper.probe(x, y)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return float("inf")


def _told(seconds: float) -> str:
    return "does not fit" if seconds == float("inf") else f"{seconds * 1e3:.1f} ms"


@contextmanager
def deterministic(on: bool) -> Generator[None, None, None]:
    """Only deterministic kernels inside, if ``on``; the setting of before afterwards."""
    if not on:
        yield  # setting it, even to what it was, imports torch's compiler
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
