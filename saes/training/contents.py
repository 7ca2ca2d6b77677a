"""What a source holds beside its position, such as a mixing buffer, kept with a checkpoint.

``RUN/source/step_N.safetensors``, once for all dictionaries; its name and sha256 stand in every
``state.json`` of that step, which is written after it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lensbench import io
from lensbench.errors import DamagedDataError, MissingDataError

FOLDER = "source"


def write(run: Path, step: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write ``tensors`` and say where they are."""
    from safetensors.torch import save_file

    path = run / FOLDER / f"step_{step}.safetensors"
    with io.atomic_path(path) as temp, io.saving():
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, temp)
    return {"file": f"{FOLDER}/{path.name}", "sha256": io.sha256_file(path)}


def read(run: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that an entry of :func:`write` names.

    Raises:
        MissingDataError: the file is gone.
        DamagedDataError: it is not what was written.
    """
    path = run / str(entry["file"])
    older = "remove the checkpoints of that step to resume from an older one"
    if not path.is_file():
        raise MissingDataError(f"no file {path}, which the checkpoint needs; {older}")
    if io.sha256_file(path) != entry["sha256"]:
        raise DamagedDataError(f"{path} is damaged (sha256 differs); {older}")
    return io.read_tensors(path)


def prune(run: Path, steps: Collection[int]) -> None:
    """Remove what belongs to none of ``steps``, whose checkpoints are kept."""
    for path in (run / FOLDER).glob("step_*.safetensors"):
        if int(path.stem.removeprefix("step_")) not in steps:
            path.unlink()
