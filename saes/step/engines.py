"""Which way a group steps: measured on the first batch, printed, and kept for the whole run.

- ``dense``: dictionary by dictionary, dense encoder product, everything after it sparse.
- ``screened``: the same, with a bfloat16 product that only says where to look (exact).
- ``stacked``: all dictionaries of the group in batched dense products.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lensbench.saes.architectures import FixedK, TopKConfig
from lensbench.saes.step import update
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.group import Group
from lensbench.saes.step.looped import Looped
from lensbench.saes.step.rules.base import Now
from lensbench.saes.step.stacked import stacked_gradients

Engine = Literal["dense", "screened", "stacked"]
STACKED_LIMIT = 2e11
"""Operations of one stacked step above which a CPU does not try it."""
REPEATS = 2


@dataclass
class Stepper:
    """Steps of one group, with the engine it was given."""

    group: Group
    engine: Engine
    space: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        """Prepare the loop over dictionaries."""
        self._looped = Looped(screened=self.engine == "screened", space=self.space)

    def step(self, x: Tensor, rates: list[float], now: Now, y: Tensor | None = None) -> None:
        """One update of every dictionary that is alive, in the units of the source."""
        group = self.group
        x, y = group.seen(x, y)
        for i, config in enumerate(group.configs):
            group.rule.before(config, group.own(i), now)
        if self.engine == "stacked":
            for i, gradients in enumerate(stacked_gradients(group, x, now, y=y)):
                if group.alive[i]:
                    update.apply(group, i, gradients, rates[i], len(x), now)
            return
        for i in range(group.n):
            if group.alive[i]:
                found = self._looped.one(group, i, x, now, y)
                if found is None:
                    found = stacked_gradients(group, x, now, i, i + 1, y)[0]
                update.apply(group, i, found, rates[i], len(x), now)

    def probe(self, x: Tensor, y: Tensor | None = None) -> float:
        """Seconds for the gradients of one step; nothing is updated."""
        group, now = self.group, Now()
        best, (x, y) = float("inf"), group.seen(x, y)
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


def candidates(group: Group, tokens: int) -> list[Engine]:
    """Engines worth trying on this device."""
    first = group.configs[0]
    if group.device.type != "cpu":
        # The loop over listed codes waits for the device once per step, except for TopK.
        return ["stacked", "dense"] if isinstance(first, TopKConfig) else ["stacked"]
    work = 10.0 * group.n * tokens * (group.d_in + group.d_out) * group.d_sae
    found: list[Engine] = ["dense", "screened"] if isinstance(first, FixedK) else ["dense"]
    return [*found, "stacked"] if work < STACKED_LIMIT else found


def choose(
    group: Group, x: Tensor, space: Workspace, y: Tensor | None = None
) -> tuple[Engine, str]:
    """The fastest engine for a group and a line that says how that was found."""
    times: dict[Engine, float] = {
        e: Stepper(group, e, space).probe(x, y) for e in candidates(group, len(x))
    }
    best: Engine = min(times, key=lambda engine: times[engine])
    measured = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in times.items())
    return best, f"{best} ({measured} per step of {group.n})"


@contextmanager
def deterministic(on: bool) -> Generator[None, None, None]:
    """Only deterministic kernels inside, if ``on``; the setting of before afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    if on:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
