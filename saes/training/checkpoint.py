"""Checkpoints of a run: everything the next step depends on; a kill leaves a whole one.

``RUN/<name>/checkpoints/step_N/`` holds ``state.safetensors`` (parameters, moments, counters) and,
written last, ``state.json`` (position of the source, engine, scale, checksum). Training draws no
random numbers after the start, so the position of the source is the only generator state.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from lensbench import io
from lensbench.errors import DamagedDataError, DataError
from lensbench.saes.distributed import shards
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
    io.write_arrays(into / shards.WHOLE, shards.arrays(group, i))
    digest = io.sha256_file(into / shards.WHOLE)
    finish(folder, group, i, state, {"sha256": digest})


def finish(folder: Path, group: Group, i: int, state: RunState, more: dict[str, Any]) -> None:
    """Write ``state.json``, last: from now on this is a checkpoint."""
    body = state.to_json() | {"alive": group.alive[i]} | more
    io.write_json(place(folder, state.step) / "state.json", body)


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
    """Whether the run was killed before all of it had a first checkpoint."""
    return all(
        read_state(folder, step).before == 0 for folder, done in found.items() for step in done
    )


def read_states(folders: list[Path], step: int) -> RunState:
    """The state of several dictionaries; they may have been trained by different processes."""
    found = [read_state(folder, step) for folder in folders]
    together = found[0]
    for name in ("engines", "scales", "widths", "variance", "guesses"):
        merged = {
            key: value for one in reversed(found) for key, value in getattr(one, name).items()
        }
        together = replace(together, **{name: merged})
    return together


def read_state(folder: Path, step: int) -> RunState:
    """What a checkpoint says beside the tensors.

    Raises:
        DataError: not a checkpoint of this version.
    """
    body = io.read_json(place(folder, step) / "state.json")
    try:
        return RunState(**{k: v for k, v in body.items() if k not in ("alive", "sha256", "shards")})
    except TypeError as error:
        raise DataError(f"{folder} holds a checkpoint of another version: {error}") from error


def read(folder: Path, step: int, group: Group, i: int, span: slice | None = None) -> None:
    """Put dictionary ``i`` of ``group`` back as it was; ``span`` where it is a part of the latents.

    Raises:
        DamagedDataError: the tensors are not those that were written.
    """
    where = place(folder, step)
    arrays = shards.read(where, span)
    group.restore(i, {name: torch.from_numpy(array) for name, array in arrays.items()})
    group.alive[i] = bool(io.read_json(where / "state.json")["alive"])
