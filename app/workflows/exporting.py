"""Trained dictionaries written on this disk in the formats of others, and read back to check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch

from lensbench.app.workflows.dictionaries import open_dictionary, runs_named
from lensbench.app.workflows.sharing import CODE, READ_BY, ROWS, free_name, write_sums
from lensbench.errors import ConfigError, MismatchError, MissingDataError, UnknownNameError
from lensbench.saes import formats
from lensbench.saes.coder import SparseCoder
from lensbench.saes.runs import SAERun

SEED = 0


def export_dictionaries(
    name: str,
    out: Path,
    format: str,
    only: tuple[str, ...] = (),
    *,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Write the dictionaries of ``RUN`` (or the one of ``RUN/NAME``) into ``out``.

    One lies in ``out`` itself, several in a folder each. Every one is read back, and the largest
    difference of its codes on random inputs is told (of the size of what is encoded: 1). A file
    ``SHA256SUMS`` beside its files holds their checksums.

    Raises:
        UnknownNameError: no such format or dictionary.
        MismatchError: the format has no such architecture.
        ConfigError: ``out`` holds something and ``overwrite`` is off.
    """
    known = get_args(formats.WrittenFormat)
    if format not in known:
        raise UnknownNameError("format", format, known=known)
    chosen = _chosen(name, only)
    if not overwrite and out.is_dir() and any(out.iterdir()):
        there = ", ".join(sorted(path.name for path in out.iterdir())[:3])
        free = out.with_name(free_name(out.parent, out.name, folder=""))
        raise ConfigError(
            f"{out} is not empty (it holds {there}); choose another --out, such as {free}, or add "
            "--overwrite"
        )
    folders = {label: out if len(chosen) == 1 else out / label for label in chosen}
    rows: list[dict[str, Any]] = []
    for done, (label, folder) in enumerate(folders.items()):
        if progress is not None:
            progress(done=done, total=len(folders), unit="dictionaries")
        rows.append(_written(label, chosen[label], folder, format, _run_of(name, label)))
    code = (READ_BY.get(format) or CODE).format(path=str(next(iter(folders.values()))))
    return {"format": format, "dictionaries": rows, "read_by": code}


def _run_of(name: str, label: str) -> str:
    """The name of the run that ``RUN`` or ``RUN/NAME`` is of, without the place it lies in."""
    path = Path(name)
    return (path.parent if path.name == label else path).name


def _chosen(name: str, only: tuple[str, ...]) -> dict[str, SparseCoder]:
    """The dictionaries by their names: those of a run, or one of any format."""
    try:
        runs = runs_named(name)
    except MissingDataError:
        found = open_dictionary(name)
        return {Path(name).name: _coder(found, name)}
    known = [one.name for one in runs]
    for wanted in only:
        if wanted not in known:
            raise UnknownNameError("finished dictionary", wanted, known=known)
    if not runs:
        raise MissingDataError(f"{name} has no finished dictionary yet")
    return {one.name: one.coder for one in runs if not only or one.name in only}


def _coder(found: Any, name: str) -> SparseCoder:
    coder = found.coder if isinstance(found, SAERun) else found
    if not isinstance(coder, SparseCoder):
        raise MismatchError(f"{name} cannot be written again; use it through saes.load")
    return coder


def _written(label: str, coder: SparseCoder, folder: Path, format: Any, run: str) -> dict[str, Any]:
    formats.save(coder, folder, format=format)
    again = formats.load(folder, format=format)
    differ = _difference(coder, again)
    about = {"dictionary": label, "run": run, "format": format, "codes_differ_by": differ}
    return {
        "name": label,
        "site": coder.site or "",
        "d_sae": coder.d_sae,
        "folder": str(folder),
        "codes_differ_by": differ,
        "files": write_sums(folder, about),
    }


def _difference(one: SparseCoder, other: Any) -> float:
    """Largest difference of two dictionaries' codes of random rows of mean square 1."""
    width = int(one.W_enc.shape[0])
    rows = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        return float((one.encode(rows) - other.encode(rows)).abs().max())
