"""From what a user has (a file, a dataset, strings, ids, a world's corpus) to documents, lazily.

A document is a string or an array of token ids. Documents are numbered from 0 as they come, empty
ones included, so that a document id finds its text again. Only one document, and one block of a
file, is in memory at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lensbench import io
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, UnknownNameError
from lensbench.tokens import Tokens, as_tokens, refuse_surrogates, surrogate_fault

Document = str | np.ndarray
SEPARATOR = "<|endoftext|>"
_BLOCK = 1 << 20
_FIRST = 64
"""Documents of a streamed dataset that its fingerprint is made of."""


@dataclass(frozen=True)
class Text:
    """A text that can be read any number of times.

    ``entry`` goes into the manifest: kind, fingerprint, and what is needed to have it again.
    """

    entry: dict[str, Any]
    documents: Callable[[], Iterator[Document]]
    given_as_ids: bool = False
    masked: bool = False
    """The ids came with a mask, so what is left of them is real."""
    vocab: tuple[str, ...] = ()
    """What ids of a world mean; the model's tokenizer has to agree."""
    layout: Literal["pack", "pad"] = "pack"
    """The usual layout: documents of a world share no context, others are joined."""
    keep: tuple[np.ndarray, ...] = ()
    """Of each document, which tokens are kept; empty: all. The model is given all of them."""


def read_text(texts: Any, *, separator: str | None = None, field: str = "text") -> Text:
    """Read any of the accepted forms.

    A ``.txt`` file is split at ``separator``: by default ``<|endoftext|>`` where its first MiB has
    one, else blank lines; documents are stripped of surrounding white space and cut at 2^20
    characters. A ``.jsonl`` file or a dataset gives its column ``field`` (or ``input_ids``).

    Raises:
        MissingDataError: no such file.
        ConfigError: a form that is not accepted, or a string that is no Unicode text.
        DamagedDataError: a line that is not JSON with the field, or whose text is no Unicode text.
    """
    if isinstance(texts, Text):
        return texts
    if isinstance(texts, (str, Path)):
        return _file(Path(texts), separator, field)
    if all(hasattr(texts, name) for name in ("tokens", "offsets", "spec")):
        return _corpus(texts)
    if isinstance(texts, Mapping):
        raise ConfigError(f"got {type(texts).__name__}; pass one of its parts: {', '.join(texts)}")
    if hasattr(texts, "column_names") and hasattr(texts, "features"):
        return _dataset(texts, field)
    if isinstance(texts, (Tokens, torch.Tensor, np.ndarray)):
        return _ids(_unpadded(texts), masked=isinstance(texts, Tokens) and texts.mask is not None)
    if isinstance(texts, Sequence) and texts and all(isinstance(t, str) for t in texts):
        for number, document in enumerate(texts):
            refuse_surrogates(document, f"document {number}")
        digest = _digest(t.encode() for t in texts)
        return Text({"kind": "texts", "fingerprint": digest}, lambda: iter(texts))
    if isinstance(texts, Sequence) and texts and not isinstance(texts[0], str):
        return _ids(_ragged(texts))
    what = "an empty list" if isinstance(texts, Sequence) else type(texts).__name__
    raise ConfigError(
        f"got {what} as text; pass a .txt or .jsonl path, a list of strings, token ids, a dataset "
        "with a text column, or a corpus"
    )


def _file(path: Path, separator: str | None, field: str) -> Text:
    if not path.is_file():
        hint = " For text itself, pass a list of strings." if " " in str(path) else ""
        raise MissingDataError(f"no text file {str(path)[:200]}.{hint}")
    digest = io.sha256_file(path)
    entry: dict[str, Any] = {"kind": "file", "path": str(path)}
    if path.suffix in (".jsonl", ".ndjson"):
        rule = {"field": field}
        documents = lambda: _lines(path, field)  # noqa: E731 - one use
    else:
        rule = {"separator": _separator(path) if separator is None else separator}
        documents = lambda: _split(path, rule["separator"])  # noqa: E731 - one use
    fingerprint = io.fingerprint([digest, rule])
    return Text({**entry, **rule, "sha256": digest, "fingerprint": fingerprint}, documents)


def _separator(path: Path) -> str:
    return SEPARATOR if SEPARATOR in next(_blocks(path), "") else "\n\n"


def _blocks(path: Path) -> Iterator[str]:
    """The file, some characters at a time.

    Raises:
        DamagedDataError: bytes that are not UTF-8.
    """
    with path.open(encoding="utf-8") as file:
        try:
            while block := file.read(_BLOCK):
                yield block
        except UnicodeDecodeError as error:
            raise DamagedDataError(
                f"{path} is not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x}"
                f"); convert it first, for instance from Latin-1: iconv -f latin1 -t utf-8 "
                f"{path.name}"
            ) from error


def _split(path: Path, separator: str) -> Iterator[str]:
    rest, first = "", True
    for block in _blocks(path):
        *whole, rest = (rest + block).split(separator)
        for document in whole:
            yield document.strip()
            first = False
        while len(rest) >= _BLOCK:
            cut = rest.rfind(" ", 1, _BLOCK) + 1 or _BLOCK
            yield rest[:cut].strip()
            rest = rest[cut:]
    if rest.strip() or first:
        yield rest.strip()


def _lines(path: Path, field: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _line(path, number, line, field)


def _line(path: Path, number: int, line: bytes, field: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))[field]
    except (ValueError, KeyError, TypeError) as error:  # not UTF-8 and not JSON are ValueErrors
        raise DamagedDataError(
            f'{path}, line {number}: not a JSON object with a field "{field}" ({error})'
        ) from error
    if not isinstance(value, str):
        raise DamagedDataError(f"{path}, line {number}: field {field!r} is not a string")
    if fault := surrogate_fault(value):
        raise DamagedDataError(f"{path}, line {number} {fault}")
    return value


def _corpus(corpus: Any) -> Text:
    tokens, offsets = np.asarray(corpus.tokens), np.asarray(corpus.offsets)
    digest = _digest([tokens.astype("<i4").tobytes(), offsets.astype("<i8").tobytes()])
    spec = dict(corpus.spec)
    kind, name = spec.get("world", "atlas"), _world_name(spec)
    entry = {"kind": kind, "fingerprint": digest, "spec": spec, "name": name}
    pairs = pairwise(offsets)
    spans = [(int(a), int(b)) for a, b in pairs]
    vocab = tuple(getattr(corpus, "vocab", ()))
    documents = lambda: (tokens[a:b] for a, b in spans)  # noqa: E731 - one use
    return Text(entry, documents, given_as_ids=True, vocab=vocab, layout="pad")


_USUAL: dict[str, dict[str, Any]] = {
    "atlas": {"world_seed": 0, "variant": "english", "family": ""},
    "othello": {"size": 6},
}
"""Of every world, the settings that its short name stands for."""


def _world_name(spec: dict[str, Any]) -> str | None:
    """What ``lensbench capture --text`` calls this corpus, where it can name it."""
    usual = _USUAL.get(str(spec.get("world")))
    if usual is None or any(spec.get(key) != value for key, value in usual.items()):
        return None
    return f"{spec['world']}:{spec['n_docs']}:{spec['split']}:{spec['seed']}"


def _dataset(dataset: Any, field: str) -> Text:
    columns: list[str] = list(dataset.column_names or dataset.features or next(iter(dataset), ()))
    column = field if field in columns else "input_ids"
    if column not in columns:
        raise UnknownNameError("column", field, known=columns)
    read = lambda: (_document(i, row[column]) for i, row in enumerate(dataset))  # noqa: E731
    entry = {
        "kind": "dataset",
        "column": column,
        # A stream has no fingerprint of its own: how it begins has to do.
        "fingerprint": getattr(dataset, "_fingerprint", None) or _digest_of(read()),
        "name": str(getattr(dataset.info, "dataset_name", None)),
    }
    return Text(entry, read, given_as_ids=column == "input_ids")


def _digest_of(documents: Iterator[Document]) -> str:
    first = islice(documents, _FIRST)
    return _digest(d.encode() if isinstance(d, str) else d.astype("<i8").tobytes() for d in first)


def _document(number: int, value: Any) -> Document:
    if not isinstance(value, str):
        return np.asarray(value, dtype=np.int64)
    refuse_surrogates(value, f"document {number}")
    return value


def _unpadded(texts: Any) -> list[np.ndarray]:
    batch = as_tokens(texts)
    rows = zip(batch.ids.cpu().numpy(), batch.real.cpu().numpy(), strict=True)
    return [ids[real] for ids, real in rows]


def _ragged(texts: Sequence[Any]) -> list[np.ndarray]:
    rows = [texts] if isinstance(texts[0], (int, np.integer)) else list(texts)
    documents = [np.asarray(row) for row in rows]
    for document in documents:
        if document.ndim != 1 or (document.size and document.dtype.kind not in "iu"):
            raise ConfigError(
                f"token ids must be integers in one list per document, got {document.dtype} of "
                f"shape {list(document.shape)}"
            )
    return documents


def _ids(documents: list[np.ndarray], *, masked: bool = False) -> Text:
    digest = _digest(d.astype("<i8").tobytes() for d in documents)
    entry = {"kind": "ids", "fingerprint": digest}
    return Text(entry, lambda: iter(documents), given_as_ids=True, masked=masked)


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]
