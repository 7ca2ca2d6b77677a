"""Checkpoints of a run: everything the next step depends on; a kill leaves a whole one.

``RUN/<name>/checkpoints/step_N/`` holds ``state.safetensors`` (parameters, moments, counters) and,
written last, ``state.json`` (position of the source, engine, scale, checksum). Training draws no
random numbers after the start, so the position of the source is the only generator state.
"""

from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from lensbench import io
from lensbench.errors import DamagedDataError, DataError, MissingDataError
from lensbench.saes.step.group import Group
from lensbench.saes.training import contents

FOLDER = "checkpoints"


@dataclass(frozen=True)
class RunState:
    """What a checkpoint says beside the tensors; the same for all dictionaries of a step."""

    step: int
    before: int
    """Step of the last checkpoint that all dictionaries had; 0 where this is the first."""
    source: dict[str, Any] | None
    engines: dict[str, str]
    """Engine of every group, by its key: a resumed run must not measure anew."""
    scales: dict[str, float]
    """Scale of the activations, by site."""
    widths: dict[str, int]
    """Numbers per activation, by site."""
    variance: dict[str, Any]
    """Summed variance and steps since the last log line, by site."""
    seconds: float
    guesses: dict[str, float]
    """Where BatchTopK's search for its cut begins (it decides which product the search uses)."""
    threads: int
    """Threads of torch; sums differ in their last bits where it changes."""

    def to_json(self) -> dict[str, Any]:
        """JSON-able dictionary."""
        return dict(self.__dict__)


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies."""
    return folder / FOLDER / f"step_{step}"


def write(folder: Path, group: Group, i: int, state: RunState) -> None:
    """Write dictionary ``i`` under its own ``folder``."""
    into = place(folder, state.step)
    arrays = {
        name: tensor.detach().to("cpu").reshape(tensor.shape or (1,)).numpy()
        for name, tensor in group.tensors(i).items()
    }
    io.write_arrays(into / "state.safetensors", arrays)
    body = state.to_json() | {
        "alive": group.alive[i],
        "sha256": io.sha256_file(into / "state.safetensors"),
    }
    io.write_json(into / "state.json", body)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints; unfinished ones go as well."""
    done = steps(folder)
    for path in (folder / FOLDER).glob("step_*"):
        if int(path.name.removeprefix("step_")) not in done[-keep:]:
            rmtree(path)


def prune_run(folders: list[Path], keep: int) -> None:
    """The same for every dictionary of a run, and what the source held at the steps removed."""
    for folder in folders:
        prune(folder, keep)
    contents.prune(folders[0].parent, steps(folders[0]))


def rewind(folder: Path, step: int) -> None:
    """Remove what is newer than ``step``, which a run goes on from.

    The others have no checkpoint to match it, and it would push the next ones out of :func:`prune`.
    """
    for path in (folder / FOLDER).glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            rmtree(path)


def steps(folder: Path) -> list[int]:
    """Steps with a finished checkpoint, ascending."""
    found = (folder / FOLDER).glob("step_*/state.json")
    return sorted(int(path.parent.name.removeprefix("step_")) for path in found)


def latest(folders: list[Path]) -> int | None:
    """Newest step at which every dictionary has a checkpoint; None if the run never had one.

    Raises:
        DamagedDataError: there are checkpoints, but none of a step that all have.
    """
    found = {folder: steps(folder) for folder in folders}
    common = set.intersection(*map(set, found.values()))
    if not common and not _never_complete(found):
        have = "; ".join(f"{folder.name}: {done or 'none'}" for folder, done in found.items())
        raise DamagedDataError(
            f"the dictionaries of {folders[0].parent} have no checkpoint of one step in common "
            f"({have}). Put the missing ones back, or remove the checkpoints folders to start anew"
        )
    return max(common, default=None)


def _never_complete(found: dict[Path, list[int]]) -> bool:
    """Whether the run was killed before or while it wrote its first checkpoint."""
    missing = not all(found.values())
    return missing and all(
        read_state(folder, step).before == 0 for folder, done in found.items() for step in done
    )


def read_state(folder: Path, step: int) -> RunState:
    """What a checkpoint says beside the tensors.

    Raises:
        DataError: not a checkpoint of this version.
    """
    body = io.read_json(place(folder, step) / "state.json")
    try:
        return RunState(**{k: v for k, v in body.items() if k not in ("alive", "sha256")})
    except TypeError as error:
        raise DataError(f"{folder} holds a checkpoint of another version: {error}") from error


def read(folder: Path, step: int, group: Group, i: int) -> None:
    """Put dictionary ``i`` of ``group`` back as it was.

    Raises:
        DamagedDataError: the tensors are not those that were written.
    """
    where = place(folder, step)
    body = io.read_json(where / "state.json")
    path = where / "state.safetensors"
    if not path.is_file():
        raise MissingDataError(f"no file {path}; remove {where} to resume from an older step")
    if io.sha256_file(path) != body["sha256"]:
        raise DamagedDataError(
            f"{path} is damaged (sha256 differs); remove {where} to resume from an older step"
        )
    arrays = io.read_arrays(path)
    group.restore(i, {name: torch.from_numpy(array) for name, array in arrays.items()})
    group.alive[i] = bool(body["alive"])
