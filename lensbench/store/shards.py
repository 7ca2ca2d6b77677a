"""The files of a store's shards: mapped, checked on first touch, gathered row by row."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import numpy as np

from lensbench.errors import ConfigError, DamagedDataError
from lensbench.store import shard as files
from lensbench.store.checks import Check, check_file, problems
from lensbench.store.folder import Folder
from lensbench.store.manifest import TOKENS, FileEntry, Manifest

_OPEN_MAPS = 128


class ShardFiles:
    """Readable shards of one state of a store; safe to use from several threads."""

    def __init__(self, folder: Folder, manifest: Manifest, check: Check) -> None:
        self._folder, self._manifest = folder, manifest
        self._check: Check = check
        self.shards = manifest.readable()
        self.starts = np.cumsum([0, *(s.rows for s in self.shards)])
        """Row number at which each shard begins, and the number of rows."""
        self._dtype = str(manifest.settings["dtype"])
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()
        self._sound: set[str] = set()
        self._lock = Lock()

    def gather(self, stored: str, indices: np.ndarray, width: int) -> np.ndarray:
        """Rows as they lie on disk, in the order of ``indices``.

        Raises:
            ConfigError: a row number that does not exist.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if indices.size and (indices.min() < 0 or indices.max() >= self.starts[-1]):
            raise ConfigError(
                f"rows run from 0 to {self.starts[-1] - 1}; got {indices.min()} to {indices.max()}"
            )
        out = np.empty((indices.size, width), dtype=files.numpy_dtype(self._dtype))
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        for number in np.unique(owner):
            entry = self.shards[number].files[stored]
            where = np.flatnonzero(owner == number)
            mapped = self._open(entry, "acts", self._dtype)
            self._same(entry, mapped.shape, (self.shards[number].rows, width))
            out[where] = mapped[indices[where] - self.starts[number]]
        return out

    def tokens(self, number: int) -> dict[str, np.ndarray]:
        """Arrays of a shard's tokens file; see :class:`lensbench.store.writer.ShardTokens`."""
        entry = self.shards[number].files[TOKENS]
        return {n: self._open(entry, n, None) for n in ("ids", "real", "kept", "doc_ids")}

    def kept(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids, positions and documents of a shard's rows."""
        arrays, shard = self.tokens(number), self.shards[number]
        kept = arrays["kept"].astype(bool)
        self._same(shard.files[TOKENS], (int(kept.sum()),), (shard.rows,))
        return arrays["ids"][kept], np.nonzero(kept)[1], arrays["doc_ids"][kept]

    def problems(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """See :func:`lensbench.store.checks.problems`; readable shards and others."""
        return problems(self._folder, self._manifest, progress)

    def _same(self, entry: FileEntry, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """Rows (and width) of a file beside those the manifest counts with."""
        if found != wanted:
            raise DamagedDataError(
                f"{self._folder.url}/{entry.path} holds {list(found)} rows, the manifest says "
                f"{list(wanted)}; `lensbench store verify {self._folder.url}` says what disagrees"
            )

    def _open(self, entry: FileEntry, name: str, dtype: str | None) -> np.ndarray:
        key = f"{entry.path}:{name}"
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
            if entry.path not in self._sound:
                check_file(self._folder, entry, self._check)
                self._sound.add(entry.path)
            array = files.map_file(self._folder.local(entry.path), name, dtype)
            self._maps[key] = array
            while len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
            return array
