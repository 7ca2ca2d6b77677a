"""Do the files of a store hold what its manifest says? Checksums, and the counts behind them.

Reading a store checks each file once, when it is first touched. What is here looks at many files
on purpose: all of them (``store verify``), or those that a capture is about to build on.
"""

import json
import shlex
from collections.abc import Callable, Collection
from typing import Literal, TypeAlias

import numpy as np

from lensbench import io
from lensbench.errors import DamagedDataError, MissingDataError
from lensbench.store import shard as files
from lensbench.store.folder import Folder, LocalFolder
from lensbench.store.manifest import MANIFEST, TOKENS, FileEntry, Manifest, Shard

Check: TypeAlias = Literal["sha256", "size"]
_NAMED = 20
"""Damaged files that a message names."""
_AGAIN = "Delete it and run the capture again: only it is redone."
_TOTALS = {"n_tokens": "rows", "n_docs": "documents"}


def kind_of(folder: Folder) -> str:
    """What the manifest of a folder says it is, ``activation-store`` say; "" where it cannot."""
    try:
        told = json.loads(folder.read(MANIFEST))
    except (MissingDataError, json.JSONDecodeError, UnicodeDecodeError):
        return ""
    return str(told.get("kind", "")) if isinstance(told, dict) else ""


def check_file(folder: Folder, entry: FileEntry, check: Check) -> None:
    """Compare one file with its entry.

    Raises:
        DamagedDataError: truncated or altered; names the file.
        MissingDataError: not there.
    """
    path = folder.local(entry.path)
    size = path.stat().st_size
    if size != entry.bytes:
        raise DamagedDataError(
            f"{path} is truncated: {size} bytes instead of {entry.bytes}. {_AGAIN}"
        )
    if check == "sha256" and (found := io.sha256_file(path)) != entry.sha256:
        raise DamagedDataError(
            f"{path} was altered: sha256 {found[:16]} instead of {entry.sha256[:16]}. {_AGAIN}"
        )


def refuse_altered(folder: Folder, manifest: Manifest, sites: Collection[str]) -> None:
    """Refuse to build on files that changed: those of ``sites`` and the tokens, by checksum.

    Files that are gone or cut short are left to the capture, which makes them again; one of the
    right size with other bytes was changed by somebody, who has to know. Reads every such file
    once, some seconds per GiB and far less than making it took. A remote store is not fetched for
    this: its readers compare the checksum of each shard they touch.

    Raises:
        DamagedDataError: names the altered files and the command that removes them.
    """
    if not isinstance(folder, LocalFolder):
        return
    wanted = {TOKENS, *(manifest.stored(s) for s in sites if s in manifest.sites)}
    entries = [f for shard in manifest.shards for n, f in shard.files.items() if n in wanted]
    there = [f for f in entries if folder.size(f.path) == f.bytes]
    altered = [f for f in there if io.sha256_file(folder.local(f.path)) != f.sha256]
    if not altered:
        return
    paths = [str(folder.local(f.path)) for f in altered[:_NAMED]]
    more = "" if len(altered) <= _NAMED else f" (and {len(altered) - _NAMED} more: repeat)"
    raise DamagedDataError(
        f"{len(altered)} of {len(there)} files checked in {folder.url} were altered after they "
        f"were written (their sha256 is not the recorded one). To make them again: "
        f"{shlex.join(['rm', *paths])}{more}, then the same capture"
    )


def problems(
    folder: Folder, manifest: Manifest, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """One line per file that is missing, truncated or altered, and per count that is wrong.

    Rows, sequences and documents are counted again in the token files, rows and widths also in the
    headers of the activations. ``progress`` is called with the shards checked and all of them.
    """
    found = _wrong_totals(folder, manifest)
    last: int | None = -1
    for number, shard in enumerate(manifest.shards):
        if progress is not None:
            progress(number, len(manifest.shards))
        damaged = [text for f in shard.files.values() if (text := _damage(folder, f))]
        if not damaged:
            damaged, last = _miscounted(folder, manifest, shard, last)
        else:
            last = None
        found += damaged
    return found


def _damage(folder: Folder, entry: FileEntry) -> str:
    try:
        check_file(folder, entry, "sha256")
    except (DamagedDataError, MissingDataError) as error:
        return str(error)
    return ""


def _wrong_totals(folder: Folder, manifest: Manifest) -> list[str]:
    """Sums of the manifest that its own shards do not give."""
    where, raw = f"{folder.url}/{MANIFEST}", json.loads(folder.read(MANIFEST))
    found = [
        f"{where} says {total} = {raw.get(total)}, its shards have {right}"
        for total, part in _TOTALS.items()
        if raw.get(total) != (right := sum(int(s[part]) for s in raw["shards"]))
    ]
    if manifest.complete and len(manifest.readable()) < len(manifest.shards):
        missing = len(manifest.readable())
        found.append(f"{where} says that the store is complete, but batch {missing} is missing")
    tokens = io.fingerprint([s.files[TOKENS].sha256 for s in manifest.shards])
    if manifest.complete and manifest.text.get("tokens_fingerprint", tokens) != tokens:
        found.append(f"{where} does not list the shards that the capture ended with")
    return found


def _miscounted(
    folder: Folder, manifest: Manifest, shard: Shard, last: int | None
) -> tuple[list[str], int | None]:
    """What one shard holds that its entry does not say, and the document in which it ends.

    ``last`` is the document in which the shard before ends (None: not known).
    """
    try:
        counts = _counted(folder, shard, last)
        wrong = [
            f"{shard.files[TOKENS].path} holds {name} {n}, the manifest says {getattr(shard, name)}"
            for name, n in counts.items()
            if n != getattr(shard, name)
        ]
        for site, entry in shard.files.items():
            if site != TOKENS and site in manifest.sites:
                wrong += _wrong_shape(folder, manifest, site, entry, counts["rows"])
    except DamagedDataError as error:
        return [str(error)], None
    advice = "The manifest was changed by hand: capture into a new folder, or put it back."
    return [f"{folder.url}/{text}. {advice}" for text in wrong], counts["last_doc"]


def _counted(folder: Folder, shard: Shard, last: int | None) -> dict[str, int]:
    path = folder.local(shard.files[TOKENS].path)
    kept, real, docs = (files.map_file(path, n) for n in ("kept", "real", "doc_ids"))
    inside = np.unique(docs[real.astype(bool)])
    counts = {
        "rows": int(kept.astype(bool).sum()),
        "sequences": len(kept),
        "first_doc": int(inside[0]),
        "last_doc": int(inside[-1]),
    }
    if last is not None:  # a document that goes on here began in the shard before
        counts["documents"] = len(inside) - int(inside[0] == last)
    return counts


def _wrong_shape(
    folder: Folder, manifest: Manifest, site: str, entry: FileEntry, rows: int
) -> list[str]:
    path, dtype = folder.local(entry.path), str(manifest.settings["dtype"])
    shape = files.map_file(path, "acts", dtype).shape
    wanted = (rows, manifest.sites[site].width)
    if shape == wanted:
        return []
    return [f"{entry.path} holds {list(shape)} numbers, tokens and manifest say {list(wanted)}"]
