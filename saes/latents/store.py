"""Reading a latent store: the latents of a token, the tokens of a latent, dense slices.

No model, no dictionary and no activations are needed. Rows are numbered as in the activation store.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from lensbench.errors import ConfigError
from lensbench.saes.latents.checks import check_shard, problems
from lensbench.saes.latents.manifest import (
    LatentManifest,
    check_source,
    in_a_row,
    read_manifest,
)
from lensbench.store.checks import Check
from lensbench.store.folder import Folder, open_folder
from lensbench.store.reader import StoreIndex
from lensbench.store.rows import numbers, one_number, row_numbers
from lensbench.store.shard import map_file

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.store import ActivationStore

_OPEN_SHARDS = 64  # a process may map some ten thousand pieces of files, not more
_ARRAYS = ("indptr", "indices", "values", "doc_ids", "token_ids", "positions")


def open_latents(url: str | os.PathLike[str], *, check: str = "sha256") -> "LatentStore":
    """Open a latent store for reading.

    ``check="sha256"`` compares each shard's checksum the first time it is touched, ``"size"`` only
    its size; either way its rows and latents are counted.

    Raises:
        MissingDataError: no latent store there.
        DamagedDataError: its manifest cannot be read.

    Example:
        >>> saes.encode_store(run, store, out="latents")
        >>> latents = saes.open_latents("latents")
    """
    return LatentStore(open_folder(url), check=check)


class LatentStore:
    """Latents of every row of an activation store, sparse, on disk; safe to use from threads."""

    def __init__(self, folder: Folder, *, check: str = "sha256") -> None:
        if check not in ("sha256", "size"):
            raise ConfigError(f"check must be 'sha256' or 'size', got {check!r}")
        self._check: Check = check
        self._folder, self._lock = folder, Lock()
        self.refresh()

    def refresh(self) -> None:
        """Look again at a store that is being written."""
        self._manifest: LatentManifest = read_manifest(self._folder)
        self._shards = in_a_row(self._manifest.shards)
        self._starts = np.cumsum([0, *(s.rows for s in self._shards)])
        self._open: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._sound: set[int] = set()

    @property
    def url(self) -> str:
        """Where the store lies."""
        return self._folder.url

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON: dictionary, activation store, shards."""
        return self._manifest.to_json()

    @property
    def sae(self) -> dict[str, Any]:
        """Name, fingerprint, site, ``d_sae`` and architecture of the dictionary."""
        return dict(self._manifest.sae)

    @property
    def site(self) -> str:
        """Site whose activations were encoded."""
        return str(self._manifest.sae["site"])

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self._manifest.sae["d_sae"])

    @property
    def n_tokens(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return sum(s.nnz for s in self._shards)

    @property
    def complete(self) -> bool:
        """Whether every row of a finished activation store is in it."""
        return self._manifest.complete

    def __repr__(self) -> str:
        """Size and place."""
        state = "" if self.complete else ", growing or interrupted"
        name = self._manifest.sae["name"]
        return f"LatentStore({self.url!r}: {self.n_tokens} rows of {name}{state})"

    def row(self, row: int) -> tuple[Int[np.ndarray, " active"], Float[np.ndarray, " active"]]:
        """Latents that fire on one token and their values, strongest first.

        Raises:
            ConfigError: no such row.
            DamagedDataError: a shard that is not what was written.
        """
        arrays, inside = self._at(row)
        a, b = (int(i) for i in arrays["indptr"][inside : inside + 2])
        values = np.array(arrays["values"][a:b], dtype=np.float32)
        order = np.argsort(-np.abs(values), kind="stable")
        return np.array(arrays["indices"][a:b])[order], values[order]

    def token(self, row: int) -> dict[str, int]:
        """Token id, position and document of one row."""
        arrays, inside = self._at(row)
        return {
            "token_id": int(arrays["token_ids"][inside]),
            "position": int(arrays["positions"][inside]),
            "doc_id": int(arrays["doc_ids"][inside]),
        }

    def rows(self, rows: "slice | Sequence[int] | np.ndarray") -> sparse.csr_array:
        """Latents of the given rows, sparse ``[n, d_sae]`` float32; a mask has a boolean per row.

        Raises:
            ConfigError: a row number that does not exist, or what is no row number.
        """
        wanted = row_numbers(rows, self.n_tokens)
        parts: list[Any] = []
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(owner):
            inside = wanted[owner == number] - self._starts[number]
            parts.append(self._csr(int(number))[inside])
        if not parts:
            return sparse.csr_array((0, self.d_sae), dtype=np.float32)
        back = np.argsort(np.argsort(owner, kind="stable"), kind="stable")
        return sparse.csr_array(sparse.vstack(parts).tocsr()[back])

    def column(self, latent: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Rows on which a latent fires, ascending, and its values there.

        Raises:
            ConfigError: no such latent.
        """
        latent = one_number(latent, "latent", self.d_sae)
        rows: list[np.ndarray] = []
        values: list[np.ndarray] = []
        for number, start in enumerate(self._starts[:-1]):
            arrays = self._arrays(number)
            hit = np.flatnonzero(arrays["indices"] == latent)
            rows.append(start + np.searchsorted(arrays["indptr"], hit, side="right") - 1)
            values.append(np.array(arrays["values"][hit], dtype=np.float32))
        if not rows:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return np.concatenate(rows).astype(np.int64), np.concatenate(values)

    def dense(
        self, rows: "slice | Sequence[int] | np.ndarray", latents: Sequence[int] | None = None
    ) -> Float[np.ndarray, "n latents"]:
        """The same as an array; all latents, or those named, in their order."""
        found = self.rows(rows)
        if latents is None:
            return found.toarray()
        return found[:, numbers(latents, "latent", self.d_sae)].toarray()

    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of the rows on which each latent fires."""
        counts = np.zeros(self.d_sae, np.int64)
        for number in range(len(self._shards)):
            counts += np.bincount(self._arrays(number)["indices"], minlength=self.d_sae)
        return counts / max(1, self.n_tokens)

    def index(self) -> StoreIndex:
        """Token, position and document of every row (16 bytes a row)."""
        names = ("token_ids", "positions", "doc_ids")
        parts = [[self._arrays(i)[n] for n in names] for i in range(len(self._shards))]
        joined = (
            [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else [np.empty(0)] * 3
        )
        ids, positions, docs = joined
        return StoreIndex(ids.astype(np.int32), positions.astype(np.int32), docs.astype(np.int64))

    def to_frame(self, rows: "slice | Sequence[int] | np.ndarray") -> "pd.DataFrame":
        """One row per latent that fires: row, document, position, token id, latent, value."""
        import pandas as pd

        wanted = row_numbers(rows, self.n_tokens)
        acts = self.rows(wanted)
        which = np.repeat(np.arange(len(wanted)), np.diff(acts.indptr))
        told = [self.token(int(r)) for r in wanted]
        columns = {
            n: np.array([t[n] for t in told], np.int64) for n in ("doc_id", "position", "token_id")
        }
        frame = pd.DataFrame(
            {
                "row": wanted[which],
                **{n: c[which] for n, c in columns.items()},
                "latent": acts.indices.astype(np.int64),
                "value": acts.data,
            }
        )
        frame.attrs["units"] = {"value": "units of the site's activations"}
        return frame

    def check_store(self, store: "ActivationStore") -> None:
        """Refuse an activation store other than the one these latents were made from.

        Raises:
            MismatchError: another model, text or setting, or its files have changed.
        """
        check_source(self._manifest, self.url, store.manifest, store.url)

    def verify(self) -> list[str]:
        """Compare every file with its checksum, and its rows and latents with the manifest.

        One line per problem; empty when all is well.
        """
        return problems(self._folder, self._manifest)

    def _at(self, row: int) -> tuple[dict[str, np.ndarray], int]:
        """Arrays of the shard that holds a row, and the row's place in it."""
        row = one_number(row, "row", self.n_tokens)
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._arrays(number), int(row - self._starts[number])

    def _csr(self, number: int) -> sparse.csr_array:
        arrays = self._arrays(number)
        values = np.array(arrays["values"], dtype=np.float32)
        parts = (values, np.array(arrays["indices"]), np.array(arrays["indptr"]))
        return sparse.csr_array(parts, shape=(self._shards[number].rows, self.d_sae))

    def _arrays(self, number: int) -> dict[str, np.ndarray]:
        with self._lock:
            if number not in self._open:
                shard = self._shards[number]
                if number not in self._sound:
                    check_shard(self._folder, shard, self._check)
                    self._sound.add(number)
                path = self._folder.local(shard.file.path)
                self._open[number] = {name: map_file(path, name) for name in _ARRAYS}
                while len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)
            return self._open[number]
