"""The folder of a run that several ranks write: one of them for what is shared."""

from pathlib import Path
from shutil import rmtree
from typing import Any

from lensbench import io
from lensbench.errors import MissingDataError
from lensbench.saes.configs import DictionaryConfig, SweepConfig
from lensbench.saes.distributed.job import Job
from lensbench.saes.runs import newest_lines
from lensbench.saes.training.folder import RunFolder

RANKS = "ranks"
"""Beside the dictionaries: ``rank-1.json``, ..., the status of ranks with dictionaries of their
own."""


class RankFolder(RunFolder):
    """Rank 0 opens it and keeps its status; the others wait until it is there.

    Where ranks have dictionaries of their own (``apart``) each logs and keeps those; otherwise
    rank 0 writes for all.
    """

    def __init__(self, path: Path, names: list[str], job: Job, *, apart: bool) -> None:
        super().__init__(path, names)
        self._job, self._apart, self._first = job, apart, job.rank == 0
        self.own = names
        """Dictionaries of this rank."""

    @property
    def writes(self) -> bool:
        """Whether this rank writes dictionaries."""
        return self._first or self._apart

    def open(
        self,
        sweep: SweepConfig,
        configs: list[DictionaryConfig],
        card: dict[str, Any],
        *,
        resume: bool,
    ) -> None:
        """As for one process; all ranks have read what was there before rank 0 writes."""
        self._job.meet("before opening")
        if self._first:
            super().open(sweep, configs, card, resume=resume)
            assert self.path is not None
            rmtree(self.path / RANKS, ignore_errors=True)  # of a job before this one
        self._job.meet("opened")

    def status(
        self,
        state: str,
        step: int,
        steps: int,
        tokens: int,
        states: dict[str, str],
        note: str = "",
        wait: float = 0.0,
    ) -> None:
        """Rank 0 writes ``status.json``, with what the others said of theirs."""
        if self._first:
            super().status(state, step, steps, tokens, self._others() | states, note, wait)
        elif self._apart and self.path is not None:
            here = {"state": state, "step": step, "message": note, "dictionaries": states}
            io.write_json(self.path / RANKS / f"rank-{self._job.rank}.json", here)
            self.beaten()

    def log(self, text: str) -> None:
        """Append a line to ``log.txt``, with the rank where it is not the first."""
        if self.writes:
            super().log(text if self._first else f"[rank {self._job.rank}] {text}")

    def settings(self) -> dict[str, dict[str, Any]]:
        """What was written of this rank's dictionaries."""
        return {name: found for name, found in super().settings().items() if name in self.own}

    def metrics(self, name: str, line: dict[str, float]) -> None:
        """Append a line to a dictionary's ``metrics.jsonl``."""
        if self.writes:
            super().metrics(name, line)

    def elsewhere(self) -> dict[str, list[dict[str, float]]]:
        """What the other ranks logged of theirs; they may be at another step."""
        if not (self._first and self._apart):
            return {}
        return {n: lines for n in self.names if n not in self.own
                if (lines := newest_lines(self.of(n)))}  # fmt: skip

    def rewind(self, name: str, step: int) -> list[dict[str, float]]:
        """Drop logged lines after ``step``."""
        return super().rewind(name, step) if self.writes else []

    def _others(self) -> dict[str, str]:
        assert self.path is not None
        if not self._apart:
            return {}
        found: dict[str, str] = {}
        for rank in range(1, self._job.world):
            try:
                found |= io.read_json(self.path / RANKS / f"rank-{rank}.json")["dictionaries"]
            except MissingDataError:
                continue
        return found
