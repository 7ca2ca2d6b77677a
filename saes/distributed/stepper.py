"""Steps of a group in one of several ranks, and the engine that all of them use."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lensbench.saes.distributed.share import ManyRanks
from lensbench.saes.step import update
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.engines import Engine, Stepper, candidates
from lensbench.saes.step.group import Group
from lensbench.saes.step.looped import Looped
from lensbench.saes.step.precision import products_in
from lensbench.saes.step.rules.base import Gradients, Now, Objective
from lensbench.saes.step.stacked import stacked_gradients

Make = Callable[[Workspace, bool], Looped]
REPEATS = 2


@dataclass
class RankStepper(Stepper):
    """As :class:`Stepper`, with an exchange between the gradients and the update."""

    whole: ManyRanks = field(kw_only=True)
    make: Make = field(kw_only=True)

    def __post_init__(self) -> None:
        """Prepare the loop over dictionaries."""
        self.loop = self.make(self.space, self.engine == "screened")

    def step(
        self,
        x: Tensor,
        rates: list[float],
        now: Now,
        y: Tensor | None = None,
        objective: Callable[[int], Objective] | None = None,
    ) -> None:
        """One update of every dictionary that is alive."""
        assert objective is None  # end to end is refused
        group, whole = self.group, self.whole
        for i, config in enumerate(group.configs):
            group.rule.before(config, group.own(i), now)
        with products_in(self.space.precision):
            for i, found in enumerate(self._gradients(*group.seen(x, y), now)):
                if found is not None:
                    found = whole.reduced(group.configs[i], found)
                    update.apply(group, i, found, rates[i], whole.tokens(len(x)), now, whole)

    def probe(self, x: Tensor, y: Tensor | None = None) -> float:
        """Seconds for the gradients of one step; nothing is updated."""
        best, (x, y) = float("inf"), self.group.seen(x, y)
        for _ in range(REPEATS):
            start = time.perf_counter()
            with products_in(self.space.precision):
                for _ in self._gradients(x, y, Now()):
                    pass
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            best = min(best, time.perf_counter() - start)
        return best

    def _gradients(self, x: Tensor, y: Tensor | None, now: Now) -> Iterator[Gradients | None]:
        """Of one dictionary after another (they share buffers); None for those left."""
        group = self.group
        together = stacked_gradients(group, x, now, y=y) if self.engine == "stacked" else None
        for i in range(group.n):
            if not group.alive[i]:
                yield None
            elif together is not None:
                yield together[i]
            else:
                found = self.loop.one(group, i, x, now, y)
                yield stacked_gradients(group, x, now, i, i + 1, y)[0] if found is None else found


def choose(
    whole: ManyRanks, make: Make, group: Group, batch: dict[str, Tensor], space: Workspace
) -> tuple[Engine, str]:
    """The engine whose slowest rank is fastest; all ranks find the same one."""
    x, y, job = group.ends.x(batch), group.ends.y(batch), whole.job
    allowed = whole.engines(group.configs[0])
    tried: list[Engine] = [e for e in candidates(group, len(x), space) if e in allowed] or ["dense"]
    steppers = {e: RankStepper(group, e, space, whole=whole, make=make) for e in tried}
    seconds = torch.tensor([s.probe(x, y) for s in steppers.values()], dtype=torch.float64)
    times = dict(zip(steppers, job.max_(seconds).tolist(), strict=True))
    best = min(tried, key=lambda engine: times[engine])
    told = ", ".join(f"{name} {t * 1e3:.1f} ms" for name, t in times.items())
    return best, f"{best} ({told} per step of {group.n}, on the slowest of {job.world} ranks)"
