"""One batch divided over ranks: every rank has all dictionaries and a share of the tokens.

Gradients are added up before the clip and the update, so the update is that of one process on the
same batch, up to the order in which numbers are added.
"""

from collections.abc import Callable
from typing import Any

import torch

from lensbench.errors import ConfigError
from lensbench.saes.architectures import DictionaryConfig, FromBatch
from lensbench.saes.configs import TrainConfig
from lensbench.saes.distributed import stepper
from lensbench.saes.distributed.job import Job
from lensbench.saes.distributed.members import Several
from lensbench.saes.distributed.ranks import Batch, Say
from lensbench.saes.distributed.share import ManyRanks, SharedBatch
from lensbench.saes.runs import SAERun
from lensbench.saes.step.encode import Workspace
from lensbench.saes.step.engines import Engine, Stepper
from lensbench.saes.step.group import Group
from lensbench.saes.step.looped import Looped
from lensbench.saes.training.checkpoint import RunState
from lensbench.saes.training.folder import RunFolder
from lensbench.saes.training.reporting import Reporter
from lensbench.saes.training.stream import Stream


class Together(Several):
    """Ranks that step at the same time, and agree when to stop."""

    whole: ManyRanks

    def own(self, configs: list[DictionaryConfig], source: Any) -> list[DictionaryConfig]:
        """All of them.

        Raises:
            ConfigError: a dictionary that is trained end to end, or resamples.
        """
        del source
        for config in configs:
            if config.resample_at:
                raise ConfigError(
                    f"{config.name} resamples dead latents (resample_at), which is done in one "
                    "process; use train.parallel: members, or leave it out (the auxiliary loss "
                    "revives dead latents everywhere)"
                )
            if config.objective != "reconstruction":
                raise ConfigError(
                    f"{config.name} is trained end to end ({config.objective}), which needs whole "
                    "sequences and dictionaries in one process; use train.parallel: members"
                )
        return configs

    def told(self, train: TrainConfig) -> TrainConfig:
        """Only the first rank has something to tell the sinks."""
        return train if self.speaks else train.model_copy(update={"sinks": ()})

    def choose(self, group: Group, batch: Batch, space: Workspace) -> tuple[Engine, str]:
        """By the slowest rank."""
        return stepper.choose(self.whole, self._looped, group, self.share(batch), space)

    def stepper(self, group: Group, engine: Engine, space: Workspace, say: Say) -> Stepper:
        """One that asks the other ranks."""
        del say
        return stepper.RankStepper(group, engine, space, whole=self.whole, make=self._looped)

    def position(self, stream: Stream, folder: RunFolder, step: int) -> dict[str, Any] | None:
        """Rank 0 writes checkpoints; all have read the same."""
        return stream.save(folder.path if self._job.rank == 0 else None, step)

    def _looped(self, space: Workspace, screened: bool) -> Looped:
        return Looped(screened=screened, space=space)

    def stopping(self, asked: Callable[[], bool]) -> bool:
        """All stop after the same step, as soon as one was asked to."""
        return bool(self._job.max_(torch.tensor(float(asked()))) > 0)

    def latest(self, folder: RunFolder, names: list[str]) -> int | None:
        """All have looked before the first one removes what is newer."""
        step = super().latest(folder, names)
        self._job.meet("chosen")
        return step

    def rewind(self, folder: RunFolder, names: list[str], step: int) -> None:
        """By one rank, before any writes anew."""
        if self._job.rank == 0:
            super().rewind(folder, names, step)
        self._job.meet("rewound")


class Data(Together):
    """Every rank has a share of each batch."""

    def __init__(self, job: Job, train: TrainConfig) -> None:
        super().__init__(job, train)
        if train.batch_size < job.world:
            raise ConfigError(
                f"a batch of {train.batch_size} cannot be divided over {job.world} ranks; raise "
                "train.batch_size"
            )
        self.whole = shared = SharedBatch(job, train.batch_size)
        self._part = shared.part

    def share(self, batch: Batch) -> Batch:
        """This rank's rows."""
        return {site: x[self._part] for site, x in batch.items()}

    def own(self, configs: list[DictionaryConfig], source: Any) -> list[DictionaryConfig]:
        """All of them.

        Raises:
            ConfigError: an engine that selects within its own share only.
        """
        if self._train.engine == "stacked" and any(isinstance(c, FromBatch) for c in configs):
            raise ConfigError(
                "train.engine: stacked selects within one process, and BatchTopK and Matryoshka "
                "select from the whole batch; with train.parallel: data use auto or dense"
            )
        return super().own(configs, source)

    def save(
        self, folder: RunFolder, groups: list[Group], state: RunState, keep: int, *, stopped: bool
    ) -> None:
        """By rank 0, for all have the same."""
        if self._job.rank == 0:
            super().save(folder, groups, state, keep, stopped=stopped)
        self._job.meet(f"checkpoint {state.step}")

    def results(
        self,
        report: Reporter,
        folder: RunFolder,
        groups: list[Group],
        facts: tuple[dict[str, Any], int, float],
        states: dict[str, str],
    ) -> list[SAERun]:
        """By rank 0."""
        if self._job.rank == 0:
            super().results(report, folder, groups, facts, states)
        return self._all(folder)
