"""What lies below a folder that can be captured: models in hub format, and text files."""

import json
from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.app.workflows.detached import JOBS, LOG_FILE
from lensbench.errors import ConfigError

DEPTH, SMALL = 3, 1 << 20
SUFFIXES = (".txt", ".jsonl", ".ndjson")
OURS = (LOG_FILE, "metrics.jsonl")
"""Files that runs and jobs write."""
TEXTS = "texts"
"""Texts that were typed on a page are kept here, below the root."""


def model_folders(root: Path) -> list[str]:
    """Folders below ``root`` that hold a model in hub format, as the address names them."""
    found = (path.parent for depth in range(DEPTH + 1)
             for path in root.glob("*/" * depth + "config.json") if _is_model(path))  # fmt: skip
    return sorted(folder.relative_to(root).as_posix() for folder in found)


def text_files(root: Path) -> list[str]:
    """Text files below ``root``, as the address names them, without what runs and jobs wrote."""
    found = (
        path.relative_to(root)
        for depth in range(DEPTH)
        for path in root.glob("*/" * depth + "*.*")
        if path.suffix in SUFFIXES and path.name not in OURS and path.is_file()
    )
    return sorted(path.as_posix() for path in found if path.parts[0] != JOBS)


def save_text(root: Path, name: str, text: str) -> str:
    """Keep a typed text as ``texts/NAME.txt``; gives what the address calls it.

    Raises:
        ConfigError: an empty text, a name that cannot be a file, or one that is taken.
    """
    stem = name.strip().removesuffix(".txt")
    if not text.strip():
        raise ConfigError("the text is empty; type or paste some words")
    if not stem or not stem.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(f"{name!r} cannot name a file: letters, digits, '.', '_' and '-'")
    path = root / TEXTS / f"{stem}.txt"
    if path.is_file() and path.read_text("utf-8") != text:
        raise ConfigError(f"{TEXTS}/{stem}.txt is there already; choose another name")
    io.write_text(path, text)
    return path.relative_to(root).as_posix()


def _is_model(path: Path) -> bool:
    """A ``config.json`` of transformers, with weights beside it."""
    if path.stat().st_size > SMALL or not any(path.parent.glob("*.safetensors")):
        return False
    try:
        told: Any = json.loads(path.read_text("utf-8"))
    except ValueError:  # no JSON: no model
        return False
    return isinstance(told, dict) and "model_type" in told
