"""Dictionaries of a sweep spread over ranks: each reads the same source and trains its own.

No tensor is exchanged, so every dictionary comes out as in one process, bit for bit where its
engine is the same. Ranks wait for one another only once they have written a checkpoint: so all
have one in common, whatever happens.
"""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from lensbench.devices import as_device
from lensbench.errors import NonFiniteError
from lensbench.protocols import ActivationSource
from lensbench.saes.architectures import DictionaryConfig, FixedK
from lensbench.saes.configs import SweepConfig, TrainConfig
from lensbench.saes.distributed.folder import RankFolder
from lensbench.saes.distributed.job import Job
from lensbench.saes.distributed.ranks import Ranks, prune
from lensbench.saes.ends import Ends
from lensbench.saes.runs import SAERun, open_runs
from lensbench.saes.step.group import Group
from lensbench.saes.training import checkpoint, contents
from lensbench.saes.training.checkpoint import RunState
from lensbench.saes.training.folder import RunFolder
from lensbench.saes.training.reporting import Reporter
from lensbench.saes.training.stream import Stream

DENSE_COST = 3.0
"""Cost of a dictionary whose entries are not selected, against one of the same size that selects
them: all products are dense at first."""


CHECKPOINT = "checkpoint"


class Several(Ranks):
    """What is the same for every way of dividing the work."""

    def __init__(self, job: Job, train: TrainConfig) -> None:
        super().__init__()
        self._job, self._train, self._names = job, train, list[str]()
        self.speaks = job.rank == 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell the others why this rank ends."""
        self._job.leave(error)

    def device(self, asked: torch.device | str | None) -> torch.device:
        """A GPU of its own for every rank of a machine, as far as they go."""
        if asked is None and torch.cuda.is_available():
            return torch.device("cuda", self._job.local_rank % torch.cuda.device_count())
        return as_device(asked)

    def folder(self, path: Path | None, names: list[str]) -> RunFolder:
        """The one folder of all ranks."""
        assert path is not None  # join() asked for it
        self._names = names
        self._folder = RankFolder(path, names, self._job, apart=self.apart)
        return self._folder

    def why(self) -> str:
        """Whether another rank is missing: then that is why this one was told to stop."""
        return "; ".join(self._job.absent())

    def _all(self, folder: RunFolder) -> list[SAERun]:
        """Every dictionary of the run, once rank 0 has written that it is finished."""
        self._job.meet("finished")
        assert folder.path is not None
        return open_runs(folder.path)


class Members(Several):
    """Every rank has dictionaries of its own."""

    apart = True

    def __init__(self, job: Job, train: TrainConfig) -> None:
        super().__init__(job, train)
        self._common = 0

    def own(self, configs: list[DictionaryConfig], source: Any) -> list[DictionaryConfig]:
        """Balanced by cost; in the order of the sweep."""
        self._busy = min(self._job.world, len(configs))
        costs = [cost(config, source) for config in configs]
        chosen = [configs[i] for i in spread(costs, self._job.world)[self._job.rank]]
        self._folder.own = [str(config.name) for config in chosen]
        return chosen

    def part(self, sweep: SweepConfig, own: list[DictionaryConfig]) -> SweepConfig:
        """Its own dictionaries."""
        entries = tuple(config.model_dump(mode="json") for config in own)
        return sweep.model_copy(update={"sweep": entries})

    def idle(self, folder: RunFolder) -> list[SAERun]:
        """There are more ranks than dictionaries."""
        folder.log("no dictionary is left for this rank: it waits for the others")
        self._job.meet("trained")
        return self._all(folder)

    def latest(self, folder: RunFolder, names: list[str]) -> int | None:
        """Newest step of this rank's own dictionaries; ranks need not be at the same one."""
        step = super().latest(folder, names)
        if step is not None:
            shared = all(step in checkpoint.steps(folder.of(name)) for name in self._names)
            before = checkpoint.read_state(folder.of(names[0]), step).before
            self._common = step if shared else before
        # This rank may have been further than others when the job ended: they need not wait here.
        self._job.reach(CHECKPOINT, step or 0, wait=False)
        self._job.meet("chosen", self._busy)
        return step

    def save(
        self, folder: RunFolder, groups: list[Group], state: RunState, keep: int, *, stopped: bool
    ) -> None:
        """Old checkpoints go once all ranks have this one; one written at a stop is an extra."""
        state = replace(state, before=self._common)
        for group in groups:
            for i, name in group.names():
                checkpoint.write(folder.of(name), group, i, state)
        if not stopped:
            self._job.reach(CHECKPOINT, state.step, self._busy)
            self._common = state.step
            prune(folder, groups, keep)
            own = folder.of(next(groups[0].names())[1])
            inside = own.parent / contents.FOLDER / f"rank-{self._job.rank}"
            contents.prune(inside, checkpoint.steps(own))

    def position(self, stream: Stream, folder: RunFolder, step: int) -> dict[str, Any] | None:
        """What the source of this rank holds lies apart: others may have read further."""
        assert folder.path is not None
        if self._job.rank == 0:
            return stream.save(folder.path, step)
        inside = f"{contents.FOLDER}/rank-{self._job.rank}"
        found = stream.save(folder.path / inside, step)
        entry = found.get("contents") if found else None
        if isinstance(entry, dict):
            entry["file"] = f"{inside}/{entry['file']}"
        return found

    def results(
        self,
        report: Reporter,
        folder: RunFolder,
        groups: list[Group],
        facts: tuple[dict[str, Any], int, float],
        states: dict[str, str],
    ) -> list[SAERun]:
        """Each rank writes its own; all open all."""
        for group in groups:
            for i, _ in group.names():
                report.result(group, i, *facts)
        report.done(facts[1], states)
        self._job.reach(CHECKPOINT, self._train.steps, wait=False)
        self._job.meet("trained")
        if self._job.rank == 0:  # again, now that all others have said how theirs ended
            report.done(facts[1], states)
        found = self._all(folder)
        if all(run.status == "diverged" for run in found):
            raise NonFiniteError("every dictionary diverged on every rank. Lower the learning rate")
        return found


def cost(config: DictionaryConfig, source: Any) -> float:
    """About what a step costs: latents times width, more where nothing is selected beforehand."""
    width = 1
    if isinstance(source, ActivationSource):
        sites = Ends.of(config, source.sites[0]).sites
        width = sum(source.width(site) for site in sites if site in source.sites) or 1
    return config.d_sae * width * (1.0 if isinstance(config, FixedK) else DENSE_COST)


def spread(costs: list[float], parts: int) -> list[list[int]]:
    """Indices for every part: the dearest first, each to the part that has least so far."""
    found: list[list[int]] = [[] for _ in range(parts)]
    load = [0.0] * parts
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(parts), key=lambda part: (load[part], part))
        found[least].append(i)
        load[least] += costs[i]
    return [sorted(part) for part in found]
