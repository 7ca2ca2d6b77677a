"""Reading a store: rows by number, the index of rows, the token sequences, checks.

Rows are numbered in the order of the text. A store may still grow while it is read; what has a row
number keeps it, and :meth:`ActivationStore.refresh` sees the rest.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench import io
from lensbench.errors import (
    ConfigError,
    MismatchError,
    MissingDataError,
)
from lensbench.sites import Site
from lensbench.store import shard as files
from lensbench.store.advice import how_to_add
from lensbench.store.checks import Check
from lensbench.store.folder import Folder, open_folder
from lensbench.store.manifest import Manifest
from lensbench.store.rows import one_number, row_numbers
from lensbench.store.shards import ShardFiles
from lensbench.store.shown import store_table
from lensbench.store.writer import read_manifest
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.store.source import StoreSource


@dataclass(frozen=True, eq=False)
class StoreIndex:
    """What each stored row is: arrays with one entry per row."""

    token_ids: np.ndarray
    """int32."""
    positions: np.ndarray
    """int32; place in the sequence the model saw, BOS included, counted from 0."""
    doc_ids: np.ndarray
    """int64; number of the document in the text, counted from 0."""


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Whole sequences as the model saw them, and the rows stored for their tokens."""

    tokens: Tokens
    doc_ids: np.ndarray
    """int64 [batch, pos]; -1 under the padding."""
    rows: np.ndarray
    """int64 [batch, pos]; row number in the store, -1 where none was kept."""


def open_store(url: str | os.PathLike[str], *, check: Check = "sha256") -> "ActivationStore":
    """Open a store for reading.

    ``check="sha256"`` reads each shard once in full, the first time it is touched, and compares its
    checksum; ``"size"`` only notices missing and truncated files.

    Raises:
        MissingDataError: no store there.
        DamagedDataError: its manifest cannot be read.

    Example:
        >>> again = lensbench.open_store(store.url, check="size")
        >>> again.n_tokens == store.n_tokens
        True
    """
    return ActivationStore(open_folder(url), check=check)


class ActivationStore:
    """Activations of a text on disk: a row per kept token, a column block per site."""

    def __init__(self, folder: Folder, *, check: Check = "sha256") -> None:
        if check not in ("sha256", "size"):
            raise ConfigError(f"check must be 'sha256' or 'size', got {check!r}")
        self._folder: Folder = folder
        self._check: Check = check
        self.refresh()

    def refresh(self) -> None:
        """Look again at a store that is being written."""
        self._manifest: Manifest = read_manifest(self._folder)
        self._files = ShardFiles(self._folder, self._manifest, self._check)

    @property
    def url(self) -> str:
        """Where the store lies."""
        return self._folder.url

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON: model, tokenizer, text, settings, sites, shards."""
        return self._manifest.to_json()

    @property
    def model(self) -> dict[str, Any]:
        """Name, revision, fingerprint and shape of the model."""
        return dict(self._manifest.model)

    @property
    def text(self) -> dict[str, Any]:
        """Kind and fingerprint of the text, and what else is needed to have it again."""
        return dict(self._manifest.text)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of model, text and settings; more sites in a store leave it as it is.

        Every result that is read from the store carries it in its provenance.
        """
        text = [self.text.get(name) for name in ("fingerprint", "tokens_fingerprint")]
        return io.fingerprint([self.model["fingerprint"], text, self.settings])

    @property
    def settings(self) -> dict[str, Any]:
        """How the text was laid out and what was kept."""
        return dict(self._manifest.settings)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that every row has, in execution order."""
        return tuple(sorted(self._manifest.covered, key=Site.parse))

    @property
    def n_tokens(self) -> int:
        """Number of rows."""
        return int(self._files.starts[-1])

    @property
    def n_docs(self) -> int:
        """Number of documents."""
        return sum(s.documents for s in self._files.shards)

    @property
    def complete(self) -> bool:
        """Whether the whole text is in it, for every listed site."""
        return self._manifest.complete

    @property
    def dtype(self) -> str:
        """Type on disk."""
        return str(self._manifest.settings["dtype"])

    def __repr__(self) -> str:
        """Sites, rows and place."""
        state = "" if self.complete else ", growing or interrupted"
        return (
            f"ActivationStore({self.url!r}: {self.n_tokens} rows of {len(self.sites)} sites{state})"
        )

    def _repr_html_(self) -> str:
        return store_table(self)

    def width(self, site: str | Site) -> int:
        """Numbers per row of a site."""
        return self._manifest.sites[self._name(site)].width

    def shape(self, site: str | Site) -> tuple[int, ...]:
        """Shape of one row, such as ``(n_heads, d_head)``; rows are stored flat."""
        return self._manifest.sites[self._name(site)].shape

    def require(self, sites: str | Sequence[str]) -> None:
        """Refuse to go on without ``sites``.

        Raises:
            MissingDataError: names them and the command that adds them to this store.
        """
        wanted = [sites] if isinstance(sites, str) else list(sites)
        missing = [str(s) for s in map(Site.parse, wanted) if str(s) not in self.sites]
        if missing:
            add = how_to_add(missing, self.model, self.text, self.settings, self.url)
            raise MissingDataError(
                f"the store in {self.url} lacks {', '.join(missing)}; it has "
                f"{', '.join(self.sites) or 'no site yet'}. Add with: {add}"
            )

    def check_model(self, card: Any) -> None:
        """Refuse a model other than the one whose activations these are.

        Raises:
            MismatchError: the weight fingerprints differ.
        """
        if card.fingerprint != self.model["fingerprint"]:
            raise MismatchError(
                f"the store in {self.url} holds activations of {self.model['name']} "
                f"({self.model['fingerprint']}), not of {card.name} ({card.fingerprint}). Capture "
                "this model's activations into another folder"
            )

    def rows(self, site: str | Site, indices: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Activations of the given rows, float32 ``[n, width]``; a mask has a boolean per row.

        Raises:
            MissingDataError: a site that is not in the store.
            ConfigError: a row number that does not exist, or what is no row number.
            DamagedDataError: a shard that is not what was written.
        """
        wanted = row_numbers(indices, self.n_tokens)
        gathered = files.to_tensor(self.gather(self._name(site), wanted), self.dtype)
        return gathered.to(torch.float32).numpy()

    def gather(self, site: str, indices: np.ndarray) -> np.ndarray:
        """Rows as they lie on disk (bfloat16 as its bits), in the order of ``indices``."""
        return self._files.gather(self._manifest.stored(site), indices, self.width(site))

    def index(self) -> StoreIndex:
        """Token, position and document of every row (16 bytes a row)."""
        parts = [self._files.kept(number) for number in range(len(self._files.shards))]
        joined = [np.concatenate(c) if c else np.empty(0) for c in zip(*parts, strict=True)]
        ids, positions, docs = joined if joined else (np.empty(0),) * 3
        return StoreIndex(ids.astype(np.int32), positions.astype(np.int32), docs.astype(np.int64))

    def row_range(self, docs: tuple[int, int]) -> tuple[int, int]:
        """First row and end of the documents ``docs[0] .. docs[1] - 1``."""
        return self._first_row(docs[0]), self._first_row(docs[1])

    def sequences(self, batch_size: int | None = None) -> Iterator[SequenceBatch]:
        """The stored text, whole, as ``Model.run`` takes it; by default in the batches of capture.

        Tokens without a row (excluded specials, unselected positions) are there too.
        """
        size = batch_size or int(self.settings["batch_size"])
        for number in range(len(self._files.shards)):
            arrays = self._files.tokens(number)
            kept, real = arrays["kept"].astype(bool), arrays["real"].astype(bool)
            rows = np.cumsum(kept.reshape(-1)).reshape(kept.shape) - 1 + self._files.starts[number]
            rows = np.where(kept, rows, -1)
            for a in range(0, len(kept), size):
                pick = slice(a, a + size), slice(0, int(real[a : a + size].sum(1).max()))
                tokens = token_batch(arrays["ids"][pick], real[pick])
                yield SequenceBatch(tokens, np.array(arrays["doc_ids"][pick]), rows[pick])

    def sequence_of(self, row: int) -> SequenceBatch:
        """The one sequence that holds a row, whole and without padding: a batch of one.

        Only the tokens of the row's own shard are touched.

        Raises:
            ConfigError: a row number that does not exist.
        """
        row = one_number(row, "row", self.n_tokens)
        number = int(np.searchsorted(self._files.starts, row, side="right")) - 1
        arrays = self._files.tokens(number)
        kept = arrays["kept"].astype(bool)
        first = np.cumsum([0, *kept.sum(1)]) + self._files.starts[number]
        line = int(np.searchsorted(first, row, side="right")) - 1
        real = arrays["real"][line].astype(bool)
        stored = kept[line][real]
        rows = np.where(stored, first[line] + np.cumsum(stored) - 1, -1)
        ids, docs = arrays["ids"][line][real], arrays["doc_ids"][line][real]
        return SequenceBatch(token_batch(ids[None], np.ones((1, len(ids)), bool)),
                             np.array(docs[None]), rows[None])  # fmt: skip

    def source(self, sites: str | Sequence[str], **options: Any) -> "StoreSource":
        """An ``ActivationSource`` over these rows, for ``saes.train`` and probes.

        ``options`` are those of ``lensbench.store.source.StoreSource``: ``seed``, ``shuffle``,
        ``start`` and ``stop`` (rows), ``doc_range=(a, b)`` (a split of whole documents), and more.
        """
        from lensbench.store.source import StoreSource

        return StoreSource(self, sites, **options)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Compare every file with its checksum, and count its rows, sequences and documents again.

        One line per problem, empty when all is well. ``progress`` is called with the shards checked
        and all of them.
        """
        return self._files.problems(progress)

    def _name(self, site: str | Site) -> str:
        name = str(Site.parse(site))
        self.require(name)
        return name

    def _first_row(self, doc: int) -> int:
        for number, shard in enumerate(self._files.shards):
            if shard.last_doc >= doc:
                docs = self._files.kept(number)[2]
                return int(self._files.starts[number] + np.searchsorted(docs, doc))
        return self.n_tokens


def token_batch(ids: np.ndarray, real: np.ndarray) -> Tokens:
    """What the model is given for these sequences.

    With a mask even where nothing is padded: a text may end with the token that pads others, as one
    that a model wrote itself does, and the mask says that it is meant.
    """
    return Tokens(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(real.astype(bool)))
