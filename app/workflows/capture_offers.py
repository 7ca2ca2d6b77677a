"""Texts that can be captured: files below a folder, and what is typed on a page."""

from pathlib import Path

from lensbench import io
from lensbench.app.workflows.finding import find
from lensbench.errors import ConfigError

TEXTS = "texts"
"""Texts that were typed on a page are kept here, below the root."""


def text_files(root: Path) -> list[str]:
    """Text files below ``root``, as the address names them, without what runs and jobs wrote."""
    return [path.relative_to(root).as_posix() for path in find(root).texts]


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
