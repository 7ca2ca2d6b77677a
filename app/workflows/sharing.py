"""What a shared folder holds, and where a page shares to: ``shared/NAME`` below its root.

``SHA256SUMS`` beside the files is as ``sha256sum --check`` reads it; its first line, a comment,
says which dictionary they are of. Nothing that is there is ever replaced from a page.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.app.workflows.finding import once
from lensbench.errors import ConfigError

FOLDER, SUMS = "shared", "SHA256SUMS"
ROWS = 64
"""Random rows on which a folder that was written is compared with what it was written from."""
FORMATS = {
    "sae_lens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "llamascopium": "Llamascopium",
    "gemma_scope": "Gemma Scope",
    "openai": "OpenAI",
    "lensbench": "lensbench",
}
"""Formats that can be written, as people call them."""
READ_BY = {
    "sae_lens": "from sae_lens import SAE\n\nsae = SAE.load_from_disk({path!r})",
    "dictionary_learning": "from dictionary_learning.utils import load_dictionary\n\n"
    "sae, config = load_dictionary({path!r}, 'cpu')",
    "sparsify": "from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk({path!r})",
}
"""How their owner reads them."""
CODE = "from lensbench import saes\n\nsae = saes.load({path!r})"
"""How all of them are read here."""


@dataclass(frozen=True)
class Shared:
    """A folder that was shared: what it is of, and its files with sizes and checksums."""

    name: str
    """As the address of a page would say it, from the root."""
    folder: Path
    about: dict[str, Any]
    files: tuple[tuple[str, int, str], ...]
    """Name, bytes as they are now, and the sha256 that was written."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(size for _, size, _ in self.files)

    @property
    def owners_code(self) -> str:
        """Python that opens it in its owner's library; empty where that is lensbench alone."""
        return READ_BY.get(str(self.about.get("format")), "").format(path=str(self.folder))

    @property
    def code(self) -> str:
        """Python that opens it here."""
        return CODE.format(path=str(self.folder))


def write_sums(folder: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Write the checksums of all files of ``folder``; one row each: file, bytes, sha256."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != SUMS)
    rows = [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": io.sha256_file(path)}
        for path in files
    ]
    lines = [f"# {json.dumps(about)}", *(f"{row['sha256']}  {row['file']}" for row in rows)]
    io.write_text(folder / SUMS, "\n".join(lines) + "\n")
    return rows


def shared_folders(root: Path, run: Path, dictionary: str) -> list[Shared]:
    """What was shared of a dictionary into ``root/shared``, newest first."""
    found = [
        one
        for one in all_shared(root)
        if (one.about.get("run"), one.about.get("dictionary")) == (run.name, dictionary)
    ]
    return sorted(found, key=lambda one: (one.folder / SUMS).stat().st_mtime, reverse=True)


def all_shared(root: Path) -> list[Shared]:
    """Every folder of ``root/shared`` that says what it is of."""
    top = root / FOLDER
    places = sorted(top.iterdir()) if top.is_dir() and not top.is_symlink() else []
    return [_read(root, place) for place in places
            if not place.is_symlink() and (place / SUMS).is_file()]  # fmt: skip


def _read(root: Path, folder: Path) -> Shared:
    told, sums = once(folder / SUMS, "sums", _sums)
    files = [(name, (folder / name).stat().st_size, digest) for name, digest in sums
             if (folder / name).is_file()]  # fmt: skip
    return Shared(folder.relative_to(root).as_posix(), folder, told, tuple(files))


def _sums(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    try:
        told = json.loads(first.removeprefix("# "))
    except json.JSONDecodeError:  # of somebody else
        told = {}
    pairs = [m for line in lines if (m := re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line))]
    return told if isinstance(told, dict) else {}, [(m[2], m[1]) for m in pairs]


def free_name(root: Path, wanted: str, *, folder: str = FOLDER) -> str:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3``, .. that nothing in the folder has."""
    top = root / folder
    known = {p.name for p in top.iterdir()} if top.is_dir() else set[str]()
    return next(n for n in (wanted, *(f"{wanted}-{i}" for i in range(2, len(known) + 3)))
                if n not in known)  # fmt: skip


def settings(root: Path, run: Path, dictionary: str, format: str, name: str) -> dict[str, Any]:
    """Settings of a job that shares a dictionary as ``root/shared/name``.

    Raises:
        ConfigError: a name that cannot be a folder, or one that is taken; offers a free one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,150}", name):
        raise ConfigError(
            f"{name!r} cannot name a folder: letters, digits, '.', '_', '=' and '-', a letter or "
            "digit first, at most 151"
        )
    out = root / FOLDER / name
    if out.is_symlink() or (out.is_dir() and any(out.iterdir())) or out.is_file():
        raise ConfigError(
            f"{FOLDER}/{name} is there already and stays as it is; choose another name, such as "
            f"{free_name(root, name)!r}"
        )
    return {"name": str(run / dictionary), "format": format, "out": str(out)}
