"""Encoding an activation store once, so that every token's latents can be read without a model."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse

from lensbench.errors import ConfigError, MismatchError, NonFiniteError, StoppedError
from lensbench.models.splice import fingerprint_of
from lensbench.progress import told
from lensbench.protocols import Codec
from lensbench.saes.coder import SparseCoder
from lensbench.saes.evaluation.passes import (
    Dictionary,
    as_dictionary,
    check_trained_on,
    encode,
    to_csr,
)
from lensbench.saes.latents.checks import is_whole
from lensbench.saes.latents.manifest import (
    MANIFEST,
    PARTS,
    LatentManifest,
    LatentShard,
    compare,
    describe_store,
    read_manifest,
    source_of,
)
from lensbench.saes.latents.store import LatentStore
from lensbench.stopping import stop_requested
from lensbench.store import shard as files
from lensbench.store.folder import Folder, open_folder
from lensbench.store.manifest import FileEntry
from lensbench.store.writer import Lock

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

ROWS = 8192
"""Rows of a shard at most: one is hashed when it is first read, within a few milliseconds."""
_BLOCK = 2048
_DTYPES = ("float32", "float16")


def encode_store(
    sae: Any,
    store: "ActivationStore",
    *,
    out: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    progress: Callable[[int], None] | bool | None = None,
) -> LatentStore:
    """Write the latents that fire on every row of ``store`` into the folder ``out``.

    Beside each row's latents (numbers and values, ``nnz`` in all) lie its token id, position and
    document. The same call again goes on after an interruption, and over what a growing store has
    gained; a finished latent store is opened as it is. Files that are missing, cut short or altered
    are written again: every file that is kept is compared with its checksum.

    Args:
        sae: a run, an ``SAE`` (or transcoder) that knows its site, or a ``Dictionary``.
        store: activations of the dictionary's site, of the model it was trained on.
        out: folder or fsspec URL; default: ``<store>.latents/<name of the dictionary>``.
        dtype: of the values on disk, ``float32`` or ``float16``.
        progress: called with the number of rows encoded so far; without it a bar is shown on a
            terminal and in notebooks, with False nothing.

    Raises:
        ConfigError: no site, or a type that is not on offer.
        MissingDataError: the store lacks the site.
        MismatchError: a store of another model, width or setting, or ``out`` holds the latents of
            another dictionary or store.
        NonFiniteError: a latent too large for ``dtype``.
        StoppedError: interrupted; finished shards are on disk.

    Example:
        >>> latents = saes.encode_store(run, store, out="latents")
    """
    dictionary = as_dictionary(sae, encoded=True)
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be float32 or float16, got {dtype!r}")
    store.require(dictionary.site)
    check_trained_on(dictionary, store)
    _check_width(dictionary, store)
    folder = open_folder(out if out is not None else beside(store, dictionary.name))
    manifest = _begin(folder, _header(dictionary, store, dtype))
    todo = _parts(store, dictionary.site)
    done = _still_good(folder, manifest, {(p.batch, p.part): p for p in todo})
    if manifest.complete and len(done) == len(todo):
        return LatentStore(folder)
    lock = Lock(folder)
    try:
        with told("encode", progress, store.n_tokens, "row") as so_far:
            _encode(folder, manifest, dictionary, store, todo, done, so_far)
    finally:
        lock.free()
    return LatentStore(folder)


def beside(store: "ActivationStore", name: str) -> str:
    """Where the latents of a dictionary lie if nothing else is said."""
    return f"{store.url.rstrip('/')}.latents/{name.replace('/', '-')}"


@dataclass(frozen=True)
class _Part:
    """Rows ``start .. stop - 1`` of the store, of one of its shards."""

    batch: int
    part: int
    start: int
    stop: int
    source: str


def _parts(store: "ActivationStore", site: str) -> list[_Part]:
    """The rows in pieces; as far as the store can be read."""
    manifest = store.manifest
    stored = manifest["sites"][site]["alias"] or site
    parts: list[_Part] = []
    start = 0
    for number, shard in enumerate(manifest["shards"]):
        end = start + int(shard["rows"])
        if shard["batch"] != number or end > store.n_tokens:
            break
        source = source_of(shard, stored)
        edges = range(start, end, ROWS)
        parts += [
            _Part(number, i, first, min(first + ROWS, end), source)
            for i, first in enumerate(edges)
        ]  # fmt: skip
        start = end
    return parts


def _header(dictionary: Dictionary, store: "ActivationStore", dtype: str) -> LatentManifest:
    codec = dictionary.codec
    told = {
        "name": dictionary.name,
        "fingerprint": fingerprint_of(codec),
        "site": dictionary.site,
        "d_sae": codec.d_sae,
        "architecture": dictionary.architecture,
    }
    return LatentManifest(told, describe_store(store.manifest), dtype)


def _begin(folder: Folder, header: LatentManifest) -> LatentManifest:
    if not folder.exists(MANIFEST):
        _save(folder, header)
        return header
    known = read_manifest(folder)
    compare(known, header, folder.url)
    return known


def _save(folder: Folder, manifest: LatentManifest) -> None:
    text = json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n"
    folder.write(MANIFEST, [text.encode()])


def _still_good(
    folder: Folder, manifest: LatentManifest, wanted: dict[tuple[int, int], _Part]
) -> dict[tuple[int, int], LatentShard]:
    """Shards that are there whole, by checksum and counts; the others are encoded again.

    Raises:
        MismatchError: one was made from other activations than the store holds now.
    """
    good: dict[tuple[int, int], LatentShard] = {}
    for shard in manifest.shards:
        part = wanted.get((shard.batch, shard.part))
        if part is None or shard.source != part.source:
            raise MismatchError(
                f"the latent store in {folder.url} was made from another state of the activation "
                f"store (its shard {shard.batch} has changed); choose another folder"
            )
        whole = (shard.start, shard.rows) == (part.start, part.stop - part.start)
        if whole and is_whole(folder, shard):
            good[shard.batch, shard.part] = shard
    return good


def _encode(
    folder: Folder,
    manifest: LatentManifest,
    dictionary: Dictionary,
    store: "ActivationStore",
    todo: list[_Part],
    done: dict[tuple[int, int], LatentShard],
    so_far: Callable[[int], None],
) -> None:
    index = store.index()
    with stop_requested() as asked:
        for part in todo:
            if (part.batch, part.part) in done:
                continue
            if asked():
                raise StoppedError(
                    f"stopped; finished shards are in {folder.url}. The same call continues there"
                )
            rows = slice(part.start, part.stop)
            acts = _latents(dictionary, store, part, manifest.dtype)
            chunks = files.encode(
                {
                    "indptr": acts.indptr.astype(np.int64),
                    "indices": acts.indices.astype(np.int32),
                    "values": acts.data,
                    "doc_ids": index.doc_ids[rows],
                    "token_ids": index.token_ids[rows],
                    "positions": index.positions[rows],
                }
            )
            done[part.batch, part.part] = _write(folder, part, int(acts.nnz), chunks)
            so_far(part.stop)
    whole = store.complete and len(done) == len(todo)
    _save(folder, replace(manifest, shards=tuple(done[k] for k in sorted(done)), complete=whole))
    for name in folder.names(PARTS):
        folder.remove(name)


def _write(folder: Folder, part: _Part, nnz: int, chunks: files.Chunks) -> LatentShard:
    name = f"b{part.batch:08d}-{part.part:04d}"
    path = f"latents/{name}.safetensors"
    folder.write(path, chunks)
    entry = FileEntry(path, sum(len(c) for c in chunks), files.checksum(chunks))
    place = (part.batch, part.part, part.start, part.stop - part.start)
    shard = LatentShard(*place, nnz, entry, part.source)
    folder.write(f"{PARTS}/{name}.json", [json.dumps(shard.to_json()).encode()])
    return shard


@torch.no_grad()
def _latents(
    dictionary: Dictionary, store: "ActivationStore", part: _Part, dtype: str
) -> sparse.csr_array:
    blocks: list[Any] = []
    for start in range(part.start, part.stop, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, part.stop))
        x = torch.from_numpy(store.rows(dictionary.site, rows))
        blocks.append(_sparse(dictionary.codec, x))
    acts = sparse.csr_array(sparse.vstack(blocks))
    acts.sort_indices()
    with np.errstate(over="ignore"):
        acts.data = acts.data.astype(dtype)
    if not np.isfinite(acts.data).all():
        raise NonFiniteError(
            f"a latent of {dictionary.name} on rows {part.start} to {part.stop - 1} is NaN, "
            f"infinite or too large for {dtype}; nothing of these rows was stored"
        )
    return acts


def _sparse(codec: Codec, x: torch.Tensor) -> Any:
    """The latents that fire; those that a TopK dictionary chose, without the dense ones."""
    if not isinstance(codec, SparseCoder):
        return to_csr(encode(codec, x))
    values, indices = (t.cpu() for t in codec.encode_sparse(x.to(codec.device)))
    fires = values != 0
    counts = np.concatenate(([0], fires.sum(1).numpy().cumsum()))
    shape = (len(x), codec.d_sae)
    return sparse.csr_array((values[fires].numpy(), indices[fires].numpy(), counts), shape=shape)


def _check_width(dictionary: Dictionary, store: "ActivationStore") -> None:
    codec, has = dictionary.codec, store.width(dictionary.site)
    reads = getattr(codec, "d_in", getattr(codec, "d_model", None))
    if reads is not None and int(reads) != has:
        raise MismatchError(
            f"{dictionary.name} reads vectors of {reads}, but {dictionary.site} in {store.url} has "
            f"{has}"
        )
