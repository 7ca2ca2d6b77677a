"""What a latent store says of itself: values of its ``manifest.json``.

A shard of the activation store gives one shard of latents or more, each with the checksums of the
files it was made from: so a store that grew is encoded on, and one that changed is noticed.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from lensbench.errors import DamagedDataError, MismatchError, MissingDataError
from lensbench.store.folder import Folder
from lensbench.store.manifest import TOKENS, FileEntry

SCHEMA = 1
KIND = "latent-store"
MANIFEST = "manifest.json"
PARTS = "parts"


@dataclass(frozen=True)
class LatentShard:
    """Latents of some rows of one shard of the activation store."""

    batch: int
    """Number of that shard."""
    part: int
    start: int
    """Number of its first row in the store."""
    rows: int
    nnz: int
    """Latents that fire, over all rows."""
    file: FileEntry
    source: str
    """Checksums of the activations and the tokens these latents were made from."""

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        file = [self.file.path, self.file.bytes, self.file.sha256]
        return {**{k: getattr(self, k) for k in _NUMBERS}, "file": file, "source": self.source}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LatentShard":
        """Inverse of :meth:`to_json`."""
        numbers = {k: int(data[k]) for k in _NUMBERS}
        return cls(**numbers, file=FileEntry(*data["file"]), source=str(data["source"]))


_NUMBERS = ("batch", "part", "start", "rows", "nnz")


@dataclass(frozen=True)
class LatentManifest:
    """Which dictionary read which store, and the shards so far, in the order of the rows."""

    sae: dict[str, Any]
    """Name, fingerprint, site, d_sae, architecture."""
    store: dict[str, Any]
    """Model, text, tokenizer and settings of the activation store, as its manifest says."""
    dtype: str
    shards: tuple[LatentShard, ...] = ()
    complete: bool = False
    """Whether every row of a complete activation store is in it."""

    def to_json(self) -> dict[str, Any]:
        """The document of ``manifest.json``."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "complete": self.complete,
            "n_tokens": sum(s.rows for s in self.shards),
            "nnz": sum(s.nnz for s in self.shards),
            "dtype": self.dtype,
            "sae": self.sae,
            "store": self.store,
            "shards": [s.to_json() for s in self.shards],
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> "LatentManifest":
        """Inverse of :meth:`to_json`.

        Raises:
            DamagedDataError: not the manifest of a latent store, or of another schema version.
        """
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise DamagedDataError(f"{where} is not the manifest of a latent store")
        if data.get("schema") != SCHEMA:
            raise DamagedDataError(
                f"{where} has schema {data.get('schema')!r}; this version reads {SCHEMA}"
            )
        try:
            shards = tuple(LatentShard.from_json(s) for s in data["shards"])
            told = (dict(data["sae"]), dict(data["store"]), str(data["dtype"]))
            return cls(*told, shards, bool(data["complete"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedDataError(f"{where} lacks or spoils an entry: {error!r}") from error


def read_manifest(folder: Folder) -> LatentManifest:
    """The manifest, with shards announced since merged in up to the first one missing.

    Raises:
        MissingDataError: no latent store there.
        DamagedDataError: the manifest cannot be read.
    """
    names = folder.names(PARTS)  # before the manifest: a finishing writer removes them after it
    try:
        text = folder.read(MANIFEST)
    except MissingDataError as error:
        raise MissingDataError(
            f"no latent store in {folder.url}: it has no {MANIFEST}. Make one with `lensbench "
            f"encode RUN/NAME --store DIR --out {folder.url}`"
        ) from error
    manifest = LatentManifest.from_json(_json(text), f"{folder.url}/{MANIFEST}")
    found = {(s.batch, s.part): s for s in manifest.shards}
    for name in names:
        with suppress(MissingDataError):  # gathered into the manifest meanwhile
            part = _json(folder.read(name))
            if isinstance(part, dict):  # an empty one survives a power cut; its shard is redone
                shard = LatentShard.from_json(part)
                found[shard.batch, shard.part] = shard
    return replace(manifest, shards=tuple(found[k] for k in sorted(found)))


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def source_of(shard: Mapping[str, Any], stored: str) -> str:
    """Checksums of a shard of an activation store, as its manifest lists them."""
    return " ".join(str(shard["files"][name][2]) for name in (stored, TOKENS))


def describe_store(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of an activation store's manifest by which it is known again."""
    return {k: dict(manifest[k]) for k in ("model", "tokenizer", "text", "settings")}


def compare(known: LatentManifest, wanted: LatentManifest, url: str) -> None:
    """Refuse to mix two dictionaries or two stores in one folder.

    Raises:
        MismatchError: names what differs, with both values.
    """
    pairs = [("dictionary", known.sae, wanted.sae, ("fingerprint", "site", "d_sae"))]
    pairs += [
        (what, known.store[what], wanted.store[what], ("fingerprint",))
        for what in ("model", "tokenizer", "text")
    ]
    settings = (known.store["settings"], wanted.store["settings"])
    pairs.append(("capture setting", *settings, tuple({**settings[0], **settings[1]})))
    pairs.append(("type", {"dtype": known.dtype}, {"dtype": wanted.dtype}, ("dtype",)))
    for what, ours, theirs, keys in pairs:
        for key in keys:
            if ours.get(key) != theirs.get(key):
                raise MismatchError(
                    f"the latent store in {url} was written with {what} {key} = {ours.get(key)!r}"
                    f"{_called(ours)}, now it is {theirs.get(key)!r}{_called(theirs)}. Choose "
                    "another folder"
                )


def check_source(
    known: LatentManifest, url: str, manifest: Mapping[str, Any], store_url: str
) -> None:
    """Refuse an activation store (by its manifest) other than the one that was encoded.

    Raises:
        MismatchError: another model, text or setting, or its files have changed.
    """
    compare(known, replace(known, store=describe_store(manifest)), url)
    site = str(known.sae["site"])
    stored = manifest["sites"].get(site, {}).get("alias") or site
    there = {int(s["batch"]): s for s in manifest["shards"]}
    for shard in known.shards:
        now = there.get(shard.batch)
        if now is None or stored not in now["files"] or source_of(now, stored) != shard.source:
            raise MismatchError(
                f"shard {shard.batch} of {store_url} is not the one whose latents lie in {url}; "
                "encode the store again into another folder"
            )


def in_a_row(shards: Sequence[LatentShard]) -> tuple[LatentShard, ...]:
    """Shards up to the first one missing: what has a row number already."""
    found: list[LatentShard] = []
    end = 0
    for shard in shards:
        if shard.start != end:
            break
        found.append(shard)
        end += shard.rows
    return tuple(found)


def _called(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") or entry.get("path")
    return f" ({name})" if name else ""
