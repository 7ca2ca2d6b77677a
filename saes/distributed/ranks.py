"""What the loop of training asks of its processes; here, the answers of a single one.

:class:`Ranks` trains everything in one process. :class:`~.members.Members`, :class:`~.data.Data`
and :class:`~.width.Width` replace what differs where a job has several.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lensbench.devices import as_device
from lensbench.errors import ConfigError
from lensbench.saes.architectures import DictionaryConfig
from lensbench.saes.configs import SweepConfig, TrainConfig
from lensbench.saes.distributed.environment import place
from lensbench.saes.ends import Ends
from lensbench.saes.runs import SAERun
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.engines import Engine, Stepper, choose
from lensbench.saes.step.group import Group
from lensbench.saes.step.whole import Whole
from lensbench.saes.training import checkpoint
from lensbench.saes.training.checkpoint import RunState
from lensbench.saes.training.folder import RunFolder
from lensbench.saes.training.groups import started
from lensbench.saes.training.reporting import Reporter
from lensbench.saes.training.stream import Stream

Say = Callable[[str], None]
Batch = dict[str, Tensor]


class Ranks:
    """One process: everything is here."""

    speaks = True
    """Whether this process writes to the terminal."""
    portion = 1.0
    """Share of each dictionary that is held here."""
    apart = False
    """Whether other processes have dictionaries that this one does not see."""

    def __init__(self) -> None:
        self.whole = Whole()

    def __enter__(self) -> "Ranks":
        """Nothing to join."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to leave."""

    def device(self, asked: torch.device | str | None) -> torch.device:
        """Where to train."""
        return as_device(asked)

    def folder(self, path: Path | None, names: list[str]) -> RunFolder:
        """Folder of the run."""
        return RunFolder(path, names)

    def own(self, configs: list[DictionaryConfig], source: Any) -> list[DictionaryConfig]:
        """Dictionaries that this process trains."""
        del source
        return configs

    def part(self, sweep: SweepConfig, own: list[DictionaryConfig]) -> SweepConfig:
        """The sweep of this process alone."""
        del own
        return sweep

    def idle(self, folder: RunFolder) -> list[SAERun]:
        """Wait for the others, with no dictionary to train here."""
        del folder
        return []

    def told(self, train: TrainConfig) -> TrainConfig:
        """Settings by which this process reports."""
        return train

    # --- start

    def share(self, batch: Batch) -> Batch:
        """Rows of a batch that are trained on here."""
        return batch

    def total(self, own: Tensor) -> Tensor:
        """A count of latents, over all of a dictionary."""
        return own

    def group(
        self, configs: list[DictionaryConfig], ends: Ends, first: Batch, scales: dict[str, float]
    ) -> Group:
        """A group at its start."""
        return started(configs, ends, first, scales)

    def choose(self, group: Group, batch: Batch, space: Workspace) -> tuple[Engine, str]:
        """The fastest engine for a group, and how that was found."""
        return choose(group, group.ends.x(batch), space, group.ends.y(batch))

    def stepper(self, group: Group, engine: Engine, space: Workspace, say: Say) -> Stepper:
        """What steps it; ``say`` is told what it cannot do."""
        return Stepper(group, engine, space, say)

    def latest(self, folder: RunFolder, names: list[str]) -> int | None:
        """Step to go on from; None: the beginning."""
        return checkpoint.latest([folder.of(name) for name in names])

    def restore(self, folder: RunFolder, step: int, group: Group, i: int, name: str) -> None:
        """Put a dictionary back as it was."""
        checkpoint.read(folder.of(name), step, group, i)

    def rewind(self, folder: RunFolder, names: list[str], step: int) -> None:
        """Remove checkpoints after ``step``."""
        if folder.path is not None:
            for name in names:
                checkpoint.rewind(folder.of(name), step)

    # --- on the way

    def stopping(self, asked: bool) -> bool:
        """Whether to stop after this step, given whether this process was asked to."""
        return asked

    def position(self, stream: Stream, folder: RunFolder, step: int) -> dict[str, Any] | None:
        """Where the stream stands; what its source holds is written under the run."""
        return stream.save(folder.path, step)

    def why(self) -> str:
        """What is known of the reason to stop."""
        return ""

    def save(
        self, folder: RunFolder, groups: list[Group], state: RunState, keep: int, *, stopped: bool
    ) -> None:
        """Write a checkpoint of every dictionary, then remove old ones.

        In this order: a kill in between must leave the step before whole, for every dictionary.
        """
        del stopped
        for group in groups:
            for i, name in group.names():
                checkpoint.write(folder.of(name), group, i, state)
        prune(folder, groups, keep)

    # --- end

    def results(
        self,
        report: Reporter,
        folder: RunFolder,
        groups: list[Group],
        facts: tuple[dict[str, Any], int, float],
        states: dict[str, str],
    ) -> list[SAERun]:
        """Every dictionary as a result, in the order of the sweep; ``facts``: card, step, time."""
        found = [report.result(group, i, *facts) for group in groups for i, _ in group.names()]
        report.done(facts[1], states)
        return sorted(found, key=lambda run: folder.names.index(run.name))


def prune(folder: RunFolder, groups: list[Group], keep: int) -> None:
    """Remove old checkpoints of every dictionary."""
    checkpoint.prune_run([folder.of(n) for group in groups for _, n in group.names()], keep)


_count = 0


def join(train: TrainConfig, out: Path | None) -> Ranks:
    """The processes that were started together (see ``environment``), or this one alone.

    Raises:
        ConfigError: several processes without a run folder, or that do not find one another.
    """
    global _count
    here = place()
    if here.world == 1:
        return Ranks()
    if out is None:
        raise ConfigError(
            f"{here.world} processes train one run together and meet in its folder; pass out=..., "
            "the same path on a file system that all of them see (--out)"
        )
    from lensbench.saes.distributed.data import Data
    from lensbench.saes.distributed.job import Job
    from lensbench.saes.distributed.members import Members
    from lensbench.saes.distributed.width import Width

    _count += 1
    kind = {"members": Members, "data": Data, "width": Width}[train.parallel]
    return kind(Job(here, train.rank_timeout, _count), train)
