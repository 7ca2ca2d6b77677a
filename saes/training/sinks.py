"""Metrics to Weights & Biases or TensorBoard beside the run folder, which stays authoritative.

A sink gets every line of ``metrics.jsonl``, a dictionary at a time. It may be slow or fail; then
training goes on without it, after one warning. Run ids are kept in ``RUN/sinks.json``, so a resumed
run goes on in the same places. Only a package that is not installed stops a run, before it begins.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lensbench import io
from lensbench.errors import BackendUnavailableError, ConfigError

KEPT = "sinks.json"
PROJECT = "lensbench"
"""Project at Weights & Biases where ``WANDB_PROJECT`` names no other."""
Line = Mapping[str, float]
T = TypeVar("T")


class Sink(Protocol):
    """Where the metrics of all dictionaries of a run go."""

    def log(self, name: str, line: Line) -> None:
        """A line of a dictionary."""
        ...

    def close(self, state: str) -> None:
        """The run ended as ``finished``, ``stopped`` or ``failed``."""
        ...


class WandbSink:
    """A run per dictionary, grouped by the run folder, with its settings as config.

    Project, entity and mode come from ``WANDB_PROJECT``, ``WANDB_ENTITY`` and ``WANDB_MODE``
    (``offline`` writes to the run folder and needs no network).
    """

    def __init__(self, run: Path, configs: Mapping[str, Mapping[str, Any]], step: int) -> None:
        import os

        import wandb

        del step  # lines that are logged again after a resume are dropped there
        ids = _ids(run, "wandb", configs)
        settings = wandb.Settings(
            silent=True, console="off", save_code=False, disable_git=True, disable_code=True
        )
        self._runs: dict[str, Any] = {
            name: wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=run,
                id=ids[name],
                name=name,
                group=run.name,
                config=dict(config),
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
            for name, config in configs.items()
        }

    def log(self, name: str, line: Line) -> None:
        """A line of a dictionary."""
        self._runs[name].log(dict(line), step=int(line["step"]))

    def close(self, state: str) -> None:
        """Finish the runs; a failed one says so."""
        for run in self._runs.values():
            run.finish(exit_code=int(state == "failed"))


class TensorBoardSink:
    """Event files under ``RUN/tensorboard/<name>``, one tag per metric over steps."""

    def __init__(self, run: Path, configs: Mapping[str, Mapping[str, Any]], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writers: dict[str, Any] = {
            name: SummaryWriter(run / "tensorboard" / name, purge_step=step + 1 if step else None)
            for name in configs
        }

    def log(self, name: str, line: Line) -> None:
        """A line of a dictionary."""
        for metric, value in line.items():
            if metric != "step":
                self._writers[name].add_scalar(metric, value, int(line["step"]))

    def close(self, state: str) -> None:
        """Write what is left."""
        del state
        for writer in self._writers.values():
            writer.close()


SINKS: dict[str, Callable[[Path, Mapping[str, Mapping[str, Any]], int], Sink]] = {
    "wandb": WandbSink,
    "tensorboard": TensorBoardSink,
}


def require(names: Sequence[str], out: Path | str | None) -> None:
    """Refuse, before a run begins, sinks that cannot be.

    Raises:
        ConfigError: no run folder, beside which they would write.
        BackendUnavailableError: a package is absent; names the extra to install.
    """
    if names and out is None:
        raise ConfigError(
            f"train.sinks ({', '.join(names)}) write beside the log of a run; give its folder (out)"
        )
    for name in names:
        if find_spec(name) is None:
            raise BackendUnavailableError(
                f"train.sinks asks for {name}, which is not installed; install it with "
                f"`pip install 'lensbench[{name}]'`, or leave it out (metrics are in the run "
                "folder anyway)"
            )


class Sinks:
    """All sinks of a run; what one of them raises is said once, and that one is left out."""

    def __init__(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._names, self._say = tuple(names), say
        self._open: dict[str, Sink] = {}

    def open(
        self, run: Path, configs: Callable[[], Mapping[str, Mapping[str, Any]]], step: int
    ) -> None:
        """Begin, or go on from ``step``; ``configs`` tells the settings of every dictionary."""
        for name in self._names:
            sink = self._safely(name, lambda name=name: SINKS[name](run, configs(), step))
            if sink is not None:
                self._open[name] = sink

    def log(self, name: str, line: Line) -> None:
        """A line of ``metrics.jsonl``."""
        for kind, sink in list(self._open.items()):
            self._safely(kind, lambda sink=sink: sink.log(name, line))

    def close(self, state: str) -> None:
        """The run ended."""
        for kind, sink in list(self._open.items()):
            self._safely(kind, lambda sink=sink: sink.close(state))
        self._open = {}

    def _safely(self, kind: str, call: Callable[[], T]) -> T | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # theirs, about themselves
                return call()
        except Exception as error:  # whatever it is, training does not stop for it
            self._open.pop(kind, None)
            self._say(
                f"warning: {kind} failed and is left out from here on ({type(error).__name__}: "
                f"{error}); the run goes on, and all metrics are in its folder"
            )
            return None


def _ids(run: Path, kind: str, names: Mapping[str, Any]) -> dict[str, str]:
    """Ids of the dictionaries' runs: those of before where the run is gone on with."""
    import secrets

    path = run / KEPT
    kept: dict[str, dict[str, str]] = io.read_json(path) if path.is_file() else {}
    ids = {name: kept.get(kind, {}).get(name) or secrets.token_hex(4) for name in names}
    # Other ranks of a job have dictionaries of their own.
    io.write_json(path, kept | {kind: kept.get(kind, {}) | ids})
    return ids
