"""Runs, stores, models and texts below a folder, found by one walk; their small files read once.

A page asks at every click what there is. Folders that have not changed are not listed again and
files that have not changed are not read again: with 200 runs a click costs a few hundred looks at
times of change, and opens nothing.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lensbench import io
from lensbench.errors import DataError
from lensbench.saes.latents.manifest import KIND as LATENTS
from lensbench.saes.runs import STATUS_FILE
from lensbench.store.manifest import MANIFEST

T = TypeVar("T")
DEPTH = 4
"""Levels of folders that are looked at, the first one being the root."""
JOBS, TWIN = "jobs", "twin"
"""Folders whose runs are none of their own in a list: of a page's jobs, and of a control."""
SETTLED = 2.0
"""Seconds after a change in which a folder is listed anew: clocks of file systems are coarse."""
KEPT = 20_000
"""Folders and files that are remembered, at most."""
CONFIG, SMALL = "config.json", 1 << 20
TEXTS, TABLES = (".txt", ".jsonl", ".ndjson"), (".csv",)
OURS = ("log.txt", "metrics.jsonl")
"""Files that runs and jobs write."""
_HEAD = 200

_listed: dict[str, tuple[int, frozenset[str], tuple[str, ...]]] = {}
_read: dict[tuple[str, str], tuple[tuple[int, int, int], Any]] = {}


@dataclass(frozen=True)
class Found:
    """Folders of runs, of activation stores (those of controls come last), and of models."""

    runs: tuple[Path, ...]
    twins: tuple[Path, ...]
    """Runs on the twin of a model: controls of others, none of their own in a list."""
    stores: tuple[Path, ...]
    models: tuple[Path, ...]
    """Folders with a model in hub format: a ``config.json`` of transformers beside weights."""
    texts: tuple[Path, ...]
    """Text files that neither a run nor a job wrote."""
    tables: tuple[Path, ...]
    """CSV files likewise."""


def find(root: Path) -> Found:
    """What lies below ``root``; nothing is looked for inside runs and stores, nor behind links.

    A run that was trained as an array is one run, the folder of its parts.
    """
    seen: dict[str, list[Path]] = {kind: [] for kind in ("run", "store", "model", "file")}
    _walk(str(root), DEPTH, seen, top=True)
    runs = [r for r in sorted(seen["run"]) if JOBS not in r.relative_to(root).parts]
    twins = tuple(r for r in runs if TWIN in r.relative_to(root).parts)
    stores = sorted(seen["store"], key=lambda folder: (TWIN in folder.name, str(folder)))
    models = (m for m in seen["model"] if once(m / CONFIG, "model", _is_model))
    files = sorted(f for f in seen["file"] if f.relative_to(root).parts[0] != JOBS)
    return Found(tuple(r for r in runs if r not in twins), twins,
                 tuple(s for s in stores if not holds_latents(s)), tuple(sorted(models)),
                 tuple(f for f in files if f.name.endswith(TEXTS)),
                 tuple(f for f in files if f.name.endswith(TABLES)))  # fmt: skip


def kept_in(root: Path, name: str) -> list[Path]:
    """Folders that lie in a folder ``name`` of the root or of a folder of it, behind no link."""
    places = [root / name, *(root / folder / name for folder in _list(str(root))[1])]
    return [place / folder for place in places if not place.is_symlink()
            for folder in _list(str(place))[1]]  # fmt: skip


def read_json(path: Path) -> Any:
    """``io.read_json``, again only when the file has changed; do not change what you get.

    Raises:
        MissingDataError, DamagedDataError: it is gone, or cannot be read.
    """
    return once(path, "json", io.read_json)


def once(path: Path, what: str, read: Callable[[Path], T]) -> T:
    """``read(path)``, or what it gave before, where the file is still the same."""
    try:
        seen = path.stat()
    except OSError:
        return read(path)
    stamp, key = (seen.st_mtime_ns, seen.st_size, seen.st_ino), (str(path), what)
    held = _read.get(key)
    if held is not None and held[0] == stamp:
        return held[1]
    value = read(path)
    if time.time() - seen.st_mtime > SETTLED:
        _make_room(_read)
        _read[key] = (stamp, value)
    return value


def holds_latents(store: Path) -> bool:
    """Whether a manifest begins as that of a latent store does (a whole one may be long)."""
    return once(store / MANIFEST, "head", _is_of_latents)


def _is_of_latents(manifest: Path) -> bool:
    with manifest.open("rb") as file:
        return f'"{LATENTS}"'.encode() in file.read(_HEAD)


def _is_model(config: Path) -> bool:
    try:
        told = io.read_json(config) if config.stat().st_size <= SMALL else None
    except DataError:
        return False
    return isinstance(told, dict) and "model_type" in told


def _walk(folder: str, left: int, seen: dict[str, list[Path]], *, top: bool) -> None:
    files, folders = _list(folder)
    run, store = STATUS_FILE in files, MANIFEST in files
    if not run and left > 1:
        parts = [name for name in folders if name.startswith("part-")]
        run = any(STATUS_FILE in _list(f"{folder}/{name}")[0] for name in parts)
    for kind, there in (("run", run), ("store", store), ("model", CONFIG in files)):
        if there:
            seen[kind].append(Path(folder))
    if not run and not store:
        seen["file"] += [Path(folder) / n for n in sorted(files) if n.endswith(TEXTS + TABLES)]
    if left > 1 and (top or not (run or store)):
        for name in folders:
            _walk(f"{folder}/{name}", left - 1, seen, top=False)


def _list(folder: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Names of the files that matter and of the folders in a folder; nothing where it is closed."""
    try:
        stamp = os.stat(folder).st_mtime_ns  # noqa: PTH116 - as text: a path per folder is slow
        held = _listed.get(folder)
        if held is not None and held[0] == stamp:
            return held[1], held[2]
        with os.scandir(folder) as entries:
            seen = list(entries)
    except OSError:
        return frozenset(), ()
    names = {e.name for e in seen}
    weights = any(name.endswith(".safetensors") for name in names)
    files = frozenset(n for n in names if n in (STATUS_FILE, MANIFEST)
                      or (n == CONFIG and weights) or (n.endswith(TEXTS + TABLES) and n not in OURS
                          and not Path(folder, n).is_symlink())
                      )  # fmt: skip
    folders = tuple(sorted(e.name for e in seen if not e.name.startswith(".")
                           and e.is_dir(follow_symlinks=False)))  # fmt: skip
    if time.time() - stamp / 1e9 > SETTLED:
        _make_room(_listed)
        _listed[folder] = (stamp, files, folders)
    return files, folders


def _make_room(held: dict[Any, Any]) -> None:
    """Forget everything rather than grow without end; what is still asked for comes back."""
    if len(held) >= KEPT:
        held.clear()
