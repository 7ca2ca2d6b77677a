"""Writing a store: shards go to the disk in threads, each announced once it is safe.

The order inside a shard is: activations, tokens, then the part that names them with their
checksums. A reader or a resumed capture trusts only what a part or the manifest names, so a kill at
any moment loses at most the shards not yet announced.
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lensbench import io
from lensbench.errors import DataError, MismatchError, MissingDataError, NonFiniteError
from lensbench.store import shard as files
from lensbench.store.folder import Folder, LocalFolder
from lensbench.store.manifest import MANIFEST, PARTS, TOKENS, FileEntry, Manifest, Shard, SiteEntry


@dataclass(frozen=True)
class ShardTokens:
    """The sequences of one shard, as the model saw them, and which of their tokens have a row."""

    ids: np.ndarray
    """int32 [sequence, pos]; padded on the right."""
    real: np.ndarray
    """bool [sequence, pos]; False under the padding."""
    kept: np.ndarray
    """bool [sequence, pos]; the n-th True in reading order is row n of the shard."""
    docs: np.ndarray
    """int64 [sequence, pos]; document of each token, -1 under the padding."""
    documents: int
    """Documents that begin in this shard."""

    def encode(self) -> files.Chunks:
        """Bytes of the tokens file."""
        return files.encode(
            {
                "doc_ids": self.docs.astype(np.int64, copy=False),
                "ids": self.ids.astype(np.int32, copy=False),
                "real": self.real.astype(np.uint8),
                "kept": self.kept.astype(np.uint8),
            }
        )


def read_manifest(folder: Folder) -> Manifest:
    """Manifest with the announced shards merged in.

    Raises:
        MissingDataError: no store there.
        DamagedDataError: the manifest cannot be read.
    """
    parts = _parts(folder)  # before the manifest: a finishing writer removes them after it
    try:
        text = folder.read(MANIFEST)
    except MissingDataError as error:
        raise MissingDataError(
            f"no activation store in {folder.url}: it has no {MANIFEST}. Make one with "
            f"`lensbench capture --model M --text F --sites S --out {folder.url}`"
        ) from error
    where = f"{folder.url}/{MANIFEST}"
    return Manifest.from_json(_json(text), where).with_shards(parts)


def _parts(folder: Folder) -> list[Shard]:
    found: list[Shard] = []
    for name in folder.names(PARTS):
        try:
            data = _json(folder.read(name))
        except MissingDataError:
            continue  # gathered into the manifest between listing and reading
        if isinstance(data, dict):  # an empty one survives a power cut; its shard is redone
            found.append(Shard.from_json(data))
    return found


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def begin(folder: Folder, header: Manifest, sites: Mapping[str, SiteEntry]) -> Manifest:
    """Create the store of ``header``, or continue the one that is there, with ``sites`` added.

    Raises:
        MismatchError: the store there has another model, text, tokenizer or setting.
        DataError: the folder cannot be written.
    """
    if not folder.exists(MANIFEST):
        manifest = replace(header, sites=dict(sites))
    else:
        known = read_manifest(folder)
        compare(known, header, folder.url)
        kept = tuple(s for shard in known.shards if (s := present(folder, shard)) is not None)
        merged = {**known.sites, **{k: v for k, v in sites.items() if k not in known.sites}}
        manifest = replace(known, sites=merged, shards=kept, complete=False)
    save(folder, manifest)
    return manifest


def save(folder: Folder, manifest: Manifest) -> None:
    """Write ``manifest.json``, all of it or nothing."""
    text = json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n"
    folder.write(MANIFEST, [text.encode()])


def compare(known: Manifest, wanted: Manifest, url: str) -> None:
    """Refuse to mix two captures in one folder.

    Raises:
        MismatchError: names what differs, with both values.
    """
    for what in ("model", "tokenizer", "text", "settings"):
        ours, theirs = getattr(known, what), getattr(wanted, what)
        keys = ("fingerprint",) if what != "settings" else tuple({**ours, **theirs})
        for key in keys:
            if ours.get(key) != theirs.get(key):
                raise MismatchError(
                    f"the store in {url} was written with {what} {key} = {ours.get(key)!r}"
                    f"{_called(ours)}, now it is {theirs.get(key)!r}{_called(theirs)}. Use the "
                    "same, or choose another folder"
                )


def _called(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") or entry.get("path")
    return f" ({name})" if name else ""


def present(folder: Folder, shard: Shard) -> Shard | None:
    """The shard without files that are gone or cut short; None when its tokens are."""
    found = {k: f for k, f in shard.files.items() if folder.size(f.path) == f.bytes}
    return replace(shard, files=found) if TOKENS in found else None


class StoreWriter:
    """Takes finished shards and puts them on the disk in two threads.

    Two, because one waits for the disk while the other checks, hashes and hands over.

    ``submit`` returns at once; ``release`` is called when the buffers may be filled again. An error
    of a thread is raised by the next ``submit`` or by ``close``.
    """

    def __init__(self, folder: Folder, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._known = {s.batch: s for s in manifest.shards}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="store-writer")
        self._hasher = ThreadPoolExecutor(2, thread_name_prefix="store-hash")
        self._pending: list[Future[None]] = []

    def missing(self, batch: int, sites: Mapping[str, SiteEntry]) -> tuple[str, ...]:
        """Those of ``sites`` that have bytes of their own and lack this batch."""
        shard = self._known.get(batch)
        have = shard.files if shard else {}
        return tuple(n for n, s in sites.items() if s.alias is None and n not in have)

    def submit(
        self,
        batch: int,
        tokens: ShardTokens,
        rows: Mapping[str, torch.Tensor],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Queue one shard: ``rows[site]`` is a contiguous CPU tensor ``[n, width]``."""
        self._raise_failures()
        job = self._threads.submit(self._write, batch, tokens, dict(rows))
        job.add_done_callback(lambda _: release())
        self._pending.append(job)

    def check_tokens(self, batch: int, tokens: ShardTokens) -> None:
        """Refuse a text that no longer gives the tokens this batch was written with."""
        known = self._known.get(batch)
        if known and files.checksum(tokens.encode()) != known.files[TOKENS].sha256:
            raise MismatchError(
                f"the text gives other tokens for batch {batch} than the store in "
                f"{self.folder.url} holds; the text or the tokenizer has changed"
            )

    def close(self) -> None:
        """Wait for what was submitted; raise the first error."""
        try:
            for job in self._pending:
                job.result()
        finally:
            self.stop()

    def stop(self) -> None:
        """Finish the shards being written, drop the queued ones, end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._hasher.shutdown(wait=True)

    def _raise_failures(self) -> None:
        done = [job for job in self._pending if job.done()]
        self._pending = [job for job in self._pending if not job.done()]
        for job in done:
            job.result()

    def _write(self, batch: int, tokens: ShardTokens, rows: Mapping[str, torch.Tensor]) -> None:
        written: dict[str, FileEntry] = {}
        for site, values in rows.items():
            bad = files.first_bad_row(values)
            if bad is not None:
                raise NonFiniteError(_blame(site, values, bad, tokens))
            path = f"acts/{site}/b{batch:08d}.safetensors"
            written[site] = self._put(path, files.encode_rows(values))
        path, known = f"{TOKENS}/b{batch:08d}.safetensors", self._known.get(batch)
        written[TOKENS] = known.files[TOKENS] if known else self._put(path, tokens.encode())
        docs = tokens.docs[tokens.real]
        shard = Shard(
            batch=batch,
            rows=int(tokens.kept.sum()),
            sequences=len(tokens.ids),
            documents=tokens.documents,
            first_doc=int(docs.min()),
            last_doc=int(docs.max()),
            files=written,
        )
        shard = known.merge(shard) if known else shard
        text = json.dumps(shard.to_json()).encode()
        self.folder.write(f"{PARTS}/b{batch:08d}.json", [text])

    def _put(self, path: str, chunks: files.Chunks) -> FileEntry:
        digest = self._hasher.submit(files.checksum, chunks)  # while the disk is busy
        self.folder.write(path, chunks)
        return FileEntry(path, sum(len(c) for c in chunks), digest.result())


def finish(folder: Folder, n_batches: int, counts: Mapping[str, int]) -> Manifest:
    """Gather the parts into ``manifest.json``; complete when every site has every batch."""
    manifest = read_manifest(folder)
    tokens = io.fingerprint([s.files[TOKENS].sha256 for s in manifest.shards])
    whole = len(manifest.readable()) == n_batches
    whole = whole and len(manifest.covered) == len(manifest.sites)
    text = {**manifest.text, "tokens_fingerprint": tokens, **counts}
    manifest = replace(manifest, complete=whole, text=text)
    save(folder, manifest)
    for name in folder.names(PARTS):
        folder.remove(name)
    return manifest


class Lock:
    """Keeps a second capture out of a local folder; the system frees it when the process dies."""

    def __init__(self, folder: Folder) -> None:
        self._file = None
        if isinstance(folder, LocalFolder):
            self._file = _locked(folder)
            folder.sweep()

    def free(self) -> None:
        """Let others write."""
        if self._file is not None:
            self._file.close()


def _locked(folder: LocalFolder) -> Any:
    import fcntl

    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        file = (folder.path / ".lock").open("w")
    except OSError as error:
        raise DataError(
            f"cannot write {folder.url}: {error.strerror}. Choose a writable folder"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise DataError(f"another process is writing the store in {folder.url}") from error
    return file


def _blame(site: str, values: torch.Tensor, bad: int, tokens: ShardTokens) -> str:
    sequence, pos = (int(i[bad]) for i in np.nonzero(tokens.kept))
    kind = str(values.dtype).removeprefix("torch.")
    limit = torch.finfo(values.dtype).max
    return (
        f"{site} is NaN, infinite or beyond {limit:.3g} ({kind}) at document "
        f"{tokens.docs[sequence, pos]}, position {pos}, token {tokens.ids[sequence, pos]}. Nothing "
        "of this batch was stored; if the model's own values are finite, use dtype='bfloat16' or "
        "'float32'"
    )
