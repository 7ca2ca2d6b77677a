"""What a store says about itself: values of ``manifest.json`` and of the parts beside it.

A finished batch of rows is a :class:`Shard`: one file per site and one for its tokens. While a
capture runs, each shard is announced by a small file ``parts/b<batch>.json``; at the end all of
them are gathered in ``manifest.json`` and the parts are removed. Nothing here depends on how many
processes wrote the store, on the time, or on the machine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lensbench.errors import DamagedDataError

SCHEMA = 1
KIND = "activation-store"
MANIFEST = "manifest.json"
PARTS = "parts"
TOKENS = "tokens"
"""Name, among a shard's files, of the one that holds its token sequences."""


@dataclass(frozen=True)
class FileEntry:
    """One file: its name inside the store, its size and the sha256 of its bytes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """One batch of rows, in the order of the text."""

    batch: int
    rows: int
    sequences: int
    documents: int
    """Documents that begin here."""
    first_doc: int
    last_doc: int
    files: Mapping[str, FileEntry]
    """By site, and ``tokens``."""

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        files = {k: [v.path, v.bytes, v.sha256] for k, v in sorted(self.files.items())}
        return {**{k: getattr(self, k) for k in _NUMBERS}, "files": files}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Shard":
        """Inverse of :meth:`to_json`."""
        files = {k: FileEntry(*v) for k, v in data["files"].items()}
        return cls(**{k: int(data[k]) for k in _NUMBERS}, files=files)

    def merge(self, other: "Shard") -> "Shard":
        """The same rows with the files of both.

        Raises:
            DamagedDataError: the two do not hold the same tokens.
        """
        if self.files[TOKENS] != other.files[TOKENS]:
            raise DamagedDataError(
                f"batch {self.batch} was recorded twice with different tokens; "
                "capture into a new folder"
            )
        return replace(self, files={**self.files, **other.files})


_NUMBERS = ("batch", "rows", "sequences", "documents", "first_doc", "last_doc")


@dataclass(frozen=True)
class SiteEntry:
    """Shape of one row of a site, its axes, whose bytes it shares, and whose part it is.

    ``alias`` is empty where the site has bytes of its own; ``source`` is the fingerprint of the
    dictionary whose latents, reconstruction or error the rows are.
    """

    shape: tuple[int, ...]
    axes: str
    alias: str | None = None
    source: str = ""

    @property
    def width(self) -> int:
        """Numbers per row."""
        width = 1
        for size in self.shape:
            width *= size
        return width


@dataclass(frozen=True)
class Manifest:
    """Everything a store says about itself; shards are sorted by batch."""

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    text: dict[str, Any]
    settings: dict[str, Any]
    sites: dict[str, SiteEntry] = field(default_factory=dict[str, SiteEntry])
    shards: tuple[Shard, ...] = ()
    complete: bool = False
    """Whether the text was read to its end and every listed site has every shard."""

    def to_json(self) -> dict[str, Any]:
        """The document of ``manifest.json``."""
        sites = {
            name: {
                "shape": list(s.shape),
                "width": s.width,
                "axes": s.axes,
                "alias": s.alias,
                **({"source": s.source} if s.source else {}),
            }
            for name, s in self.sites.items()
        }
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "complete": self.complete,
            "n_tokens": sum(s.rows for s in self.shards),
            "n_docs": sum(s.documents for s in self.shards),
            "model": self.model,
            "tokenizer": self.tokenizer,
            "text": self.text,
            "settings": self.settings,
            "sites": sites,
            "shards": [s.to_json() for s in self.shards],
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Manifest":
        """Inverse of :meth:`to_json`.

        Raises:
            DamagedDataError: not the manifest of a store, or of another schema version.
        """
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise DamagedDataError(f"{where} is not the manifest of an activation store")
        if data.get("schema") != SCHEMA:
            raise DamagedDataError(
                f"{where} has schema {data.get('schema')!r}; this version reads {SCHEMA}"
            )
        try:
            sites = {
                name: SiteEntry(tuple(s["shape"]), s["axes"], s["alias"], s.get("source", ""))
                for name, s in data["sites"].items()
            }
            shards = tuple(Shard.from_json(s) for s in data["shards"])
            parts = (data["model"], data["tokenizer"], data["text"], data["settings"])
            return cls(*parts, sites, shards, bool(data["complete"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedDataError(f"{where} lacks or spoils an entry: {error!r}") from error

    def with_shards(self, found: Iterable[Shard]) -> "Manifest":
        """This manifest with more shards, or more files of the shards it has."""
        by_batch = {s.batch: s for s in self.shards}
        for shard in found:
            known = by_batch.get(shard.batch)
            by_batch[shard.batch] = known.merge(shard) if known else shard
        return replace(self, shards=tuple(by_batch[b] for b in sorted(by_batch)))

    def stored(self, site: str) -> str:
        """Name under which the bytes of ``site`` lie (another site's where it is an alias)."""
        return self.sites[site].alias or site

    def readable(self) -> tuple[Shard, ...]:
        """Shards 0, 1, 2 ... up to the first one missing: what has a row number already."""
        count = 0
        for shard in self.shards:
            if shard.batch != count:
                break
            count += 1
        return self.shards[:count]

    @cached_property
    def covered(self) -> tuple[str, ...]:
        """Sites that every readable shard has, in the manifest's order."""
        shards = self.readable()
        return tuple(
            name for name in self.sites if all(self.stored(name) in s.files for s in shards)
        )
