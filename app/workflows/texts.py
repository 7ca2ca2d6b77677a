"""Text as users have it: files of stories, JSON lines, and generated documents of a world."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import ConfigError, DamagedDataError, DataError, MissingDataError

if TYPE_CHECKING:
    from lensbench.worlds.atlas import Corpus

SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class Texts:
    """Documents, in order, and what they are called."""

    documents: tuple[str, ...]
    source: str
    corpus: "Corpus | None" = None
    """The labelled corpus the documents are the texts of, where they were generated."""


def read_texts(where: str) -> Texts:
    """Documents of a text file, a ``.jsonl`` file, or ``atlas:N[:split[:seed]]``.

    A text file is split at ``<|endoftext|>`` where it has one, else at blank lines.

    Raises:
        MissingDataError: no such file.
        DataError: a file without a single document, not UTF-8, or lines that are not documents.
        ConfigError: a malformed ``atlas:`` name.
    """
    if where.split(":")[0] == "atlas" and not Path(where).exists():
        return _generated(where)
    path = Path(where)
    if path.is_dir() or not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingDataError(f"--text {where}: {what}; give a .txt or .jsonl file, or atlas:N")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    documents = _lines(path, text) if path.suffix == ".jsonl" else _stories(text)
    if not documents:
        raise DataError(f"{path} holds no text; nothing to capture")
    return Texts(tuple(documents), str(path))


def _stories(text: str) -> list[str]:
    parts = text.split(SEPARATOR) if SEPARATOR in text else text.replace("\r\n", "\n").split("\n\n")
    return [part.strip() for part in parts if part.strip()]


def _lines(path: Path, text: str) -> list[str]:
    documents: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise DamagedDataError(f"{path}, line {number}: not JSON ({error.msg})") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DataError(f'{path}, line {number}: each line needs a "text" field with a string')
        documents.append(row["text"])
    return documents


def _generated(name: str) -> Texts:
    from lensbench.worlds.atlas import SPLITS, Atlas

    parts = name.split(":")[1:]
    count, split, seed = [*parts, *["1000", "train", "0"][len(parts) :]][:3]
    if len(parts) > 3 or not count.isdigit() or not seed.isdigit() or split not in SPLITS:
        raise ConfigError(
            f"--text {name}: write atlas:N or atlas:N:SPLIT:SEED, SPLIT one of {', '.join(SPLITS)}"
        )
    corpus: Corpus = Atlas(0).sample(int(count), split, int(seed))  # pyright: ignore[reportArgumentType]
    return Texts(tuple(corpus.texts()), name, corpus)
