"""From documents to the sequences a model is given, and to the rows that are kept.

``pack`` joins documents, each after a BOS, and cuts the stream into sequences of ``context``
tokens; a sequence that begins inside a document begins with a BOS too. A token can then attend to
the document before its own: usual practice for training dictionaries. ``pad`` gives every document
a sequence of its own, cut at ``context`` and padded on the right under a mask, so no document sees
another. Ids are fed as they are given; a BOS is added to text only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.harvest.positions import Positions, read_positions
from lensbench.harvest.text import Document, Text
from lensbench.padding import PaddingTokens
from lensbench.store.writer import ShardTokens
from lensbench.tokens import refuse_surrogates

LayoutName: TypeAlias = Literal["pack", "pad"]
_CHUNK_DOCS, _CHUNK_CHARS = 256, 1 << 20


@dataclass(frozen=True)
class Row:
    """One sequence: ids, document of each, and how many documents begin in it."""

    ids: np.ndarray
    docs: np.ndarray
    begins: int
    keep: np.ndarray | None = None
    """Tokens that may be kept; None: all."""


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass, padded on the right; arrays are ``[sequence, pos]``."""

    ids: np.ndarray
    real: np.ndarray
    kept: np.ndarray
    docs: np.ndarray
    n_real: int
    n_kept: int


@dataclass
class Counts:
    """What the layout left out, known once the text has been read to its end."""

    empty_documents: int = 0
    cut_documents: int = 0


@dataclass(frozen=True)
class Layout:
    """How documents become sequences and which tokens are kept.

    ``positions`` selects by place in the sequence, counted from 0, or from the last real token when
    negative; a sequence that is too short for a position has no row for it.
    """

    name: LayoutName
    context: int
    bos: bool
    exclude: tuple[int, ...]
    positions: Positions
    batch_size: int
    max_tokens: int | None
    framed: bool = False
    """Each document between the special tokens of its tokenizer, as encoders read it."""
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        """Refuse what cannot be laid out."""
        if self.name not in ("pack", "pad"):
            raise UnknownNameError("layout", str(self.name), known=("pack", "pad"))
        for what, least in (("context", 2), ("batch_size", 1)):
            if getattr(self, what) < least:
                raise ConfigError(f"{what} must be at least {least}, got {getattr(self, what)}")
        object.__setattr__(self, "positions", read_positions(self.positions, self.context))
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}")

    def rows_per_sequence(self) -> int:
        """At most."""
        if self.positions is None or isinstance(self.positions, slice):
            return self.context
        return 1 if isinstance(self.positions, int) else max(1, len(self.positions))

    def settings(self, *, given_as_ids: bool) -> dict[str, Any]:
        """What the manifest says."""
        where = self.positions
        if isinstance(where, slice):
            where = {"start": where.start, "stop": where.stop, "step": where.step}
        elif where is not None:
            where = [where] if isinstance(where, int) else list(where)
        return {
            "layout": self.name,
            "context": self.context,
            "bos": "as given" if given_as_ids else "special tokens" if self.framed else self.bos,
            "excluded_ids": list(self.exclude),
            "positions": where,
            "batch_size": self.batch_size,
            "max_tokens": self.max_tokens,
        }

    def sequences(self, text: Text, tokenizer: Any) -> Iterator[Row]:
        """Sequences of the text, until it ends or ``max_tokens`` tokens have been fed."""
        bos = None if text.given_as_ids or not self.bos else tokenizer.bos_token_id
        documents = _encoded(text, tokenizer, self.counts, framed=self.framed)
        if text.keep and self.name == "pack":
            raise ConfigError("chats are not joined: their roles need layout='pad'")
        lay = self._packed if self.name == "pack" else self._padded
        fed = 0
        for sequence in lay(documents, bos):
            yield _restricted(sequence, text.keep)
            fed += len(sequence.ids)
            if self.max_tokens is not None and fed >= self.max_tokens:
                return

    def batches(self, sequences: Iterator[Row]) -> Iterator[tuple[Batch, int]]:
        """Forward batches and the number of documents that begin in each."""
        held: list[Row] = []
        for sequence in sequences:
            held.append(sequence)
            if len(held) == self.batch_size:
                yield self._batch(held)
                held = []
        if held:
            yield self._batch(held)

    def _padded(
        self, documents: Iterator[tuple[int, np.ndarray]], bos: int | None
    ) -> Iterator[Row]:
        for number, ids in documents:
            whole = ids if bos is None else np.concatenate(([bos], ids))
            self.counts.cut_documents += len(whole) > self.context
            cut = whole[: self.context]
            yield Row(cut, np.full(len(cut), number), 1)

    def _packed(
        self, documents: Iterator[tuple[int, np.ndarray]], bos: int | None
    ) -> Iterator[Row]:
        ids, docs = np.zeros(self.context, np.int64), np.zeros(self.context, np.int64)
        used = begins = 0
        for number, tokens in documents:
            whole = tokens if bos is None else np.concatenate(([bos], tokens))
            at = 0
            while at < len(whole):
                if used == 0 and at and bos is not None:
                    ids[0], docs[0], used = bos, number, 1
                take = min(self.context - used, len(whole) - at)
                ids[used : used + take] = whole[at : at + take]
                docs[used : used + take] = number
                begins += at == 0
                used, at = used + take, at + take
                if used == self.context:
                    yield Row(ids.copy(), docs.copy(), begins)
                    used = begins = 0
        if used:
            yield Row(ids[:used].copy(), docs[:used].copy(), begins)

    def _batch(self, rows: list[Row]) -> tuple[Batch, int]:
        lengths = [len(r.ids) for r in rows]
        width, n_real = max(lengths), sum(lengths)
        if n_real == width * len(rows):
            real = np.ones((len(rows), width), bool)
            ids, docs = np.stack([r.ids for r in rows]), np.stack([r.docs for r in rows])
        else:
            real = np.arange(width) < np.array(lengths)[:, None]
            ids, docs = np.zeros(real.shape, np.int64), np.full(real.shape, -1, np.int64)
            ids[real] = np.concatenate([r.ids for r in rows])
            docs[real] = np.concatenate([r.docs for r in rows])
        kept, n_kept = real, n_real
        if self.positions is not None or self.exclude or any(r.keep is not None for r in rows):
            kept = real & self._selected(width, lengths)
            for row, given in zip(kept, rows, strict=True):
                if given.keep is not None:
                    row[: len(given.keep)] &= given.keep
            kept &= ~np.isin(ids, self.exclude)
            n_kept = int(kept.sum())
        return Batch(ids, real, kept, docs, n_real, n_kept), sum(r.begins for r in rows)

    def _selected(self, width: int, lengths: list[int]) -> np.ndarray:
        if self.positions is None:
            return np.ones((len(lengths), width), bool)
        chosen = np.zeros((len(lengths), width), bool)
        for row, length in zip(chosen, lengths, strict=True):
            if isinstance(self.positions, slice):
                row[:length][self.positions] = True
                continue
            wanted = [self.positions] if isinstance(self.positions, int) else self.positions
            places = [p if p >= 0 else length + p for p in wanted]
            row[[p for p in places if 0 <= p < length]] = True
        return chosen


def _restricted(row: Row, keep: Sequence[np.ndarray]) -> Row:
    """A padded sequence with the kept tokens of its document, where the text names some."""
    if not keep:
        return row
    return replace(row, keep=keep[int(row.docs[0])][: len(row.ids)])


def join(batches: Sequence[Batch], documents: int) -> ShardTokens:
    """Sequences of several batches as one block, padded to the longest."""
    shape = sum(len(b.ids) for b in batches), max(b.ids.shape[1] for b in batches)
    ids, docs = np.zeros(shape, np.int32), np.full(shape, -1, np.int64)
    real, kept = np.zeros(shape, bool), np.zeros(shape, bool)
    row = 0
    for batch in batches:
        place = slice(row, row + len(batch.ids)), slice(0, batch.ids.shape[1])
        ids[place], docs[place] = batch.ids, batch.docs
        real[place], kept[place] = batch.real, batch.kept
        row += len(batch.ids)
    return ShardTokens(ids, real, kept, docs, documents)


def _encoded(
    text: Text, tokenizer: Any, counts: Counts, *, framed: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbered documents as ids; the empty ones are counted and left out."""
    padding = PaddingTokens.of(tokenizer)
    for first, chunk in _chunks(text.documents()):
        encoded = chunk if text.given_as_ids else _encode(chunk, tokenizer, first, framed)
        for number, ids in enumerate(encoded, first):
            array = np.asarray(ids, dtype=np.int64)
            if text.given_as_ids and not text.masked:
                padding.refuse_bare(array[None], f"document {number}")
            if array.size:
                yield number, array
            else:
                counts.empty_documents += 1


def _encode(chunk: list[Document], tokenizer: Any, first: int, framed: bool) -> list[Any]:
    for number, document in enumerate(chunk, first):
        refuse_surrogates(str(document), f"document {number}")
    filled = [i for i, document in enumerate(chunk) if str(document).strip()]
    out: list[Any] = [()] * len(chunk)
    if filled:
        texts = [chunk[i] for i in filled]
        # verbose: it warns of documents longer than the context, which we cut ourselves
        given = tokenizer(texts, add_special_tokens=framed, verbose=False)["input_ids"]
        for i, ids in zip(filled, given, strict=True):
            out[i] = ids
    return out


def _chunks(documents: Iterator[Document]) -> Iterator[tuple[int, list[Document]]]:
    """Enough documents at a time for the tokenizer to work in one go, but no more."""
    held: list[Document] = []
    first = size = 0
    for document in documents:
        held.append(document)
        size += len(document)
        if len(held) == _CHUNK_DOCS or size >= _CHUNK_CHARS:
            yield first, held
            first, held, size = first + len(held), [], 0
    if held:
        yield first, held
