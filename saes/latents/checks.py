"""Do the files of a latent store hold what its manifest says? Checksums and counts.

A reader checks each shard when it first touches it; an encoding that goes on, those it keeps;
``lensbench store verify`` all of them.
"""

import json

from lensbench import io
from lensbench.errors import DamagedDataError, DataError
from lensbench.saes.latents.manifest import MANIFEST, LatentManifest, LatentShard, in_a_row
from lensbench.store.checks import Check
from lensbench.store.folder import Folder, LocalFolder
from lensbench.store.shard import map_file

_TOTALS = {"n_tokens": "rows", "nnz": "nnz"}
_SIZES = {"indices": "nnz", "values": "nnz"}
_ROWS = ("doc_ids", "token_ids", "positions")


def check_shard(folder: Folder, shard: LatentShard, check: Check) -> None:
    """Compare one file with its entry: size, checksum (where asked for), rows and latents in it.

    Raises:
        DamagedDataError: truncated, altered, or with other counts; names the file.
        MissingDataError: not there.
    """
    path = folder.local(shard.file.path)
    size = path.stat().st_size
    if size != shard.file.bytes:
        why = f"is truncated: {size} bytes instead of {shard.file.bytes}"
    elif check == "sha256" and io.sha256_file(path) != shard.file.sha256:
        why = "was altered after it was written (sha256 differs)"
    else:
        return _count(folder, shard)
    raise DamagedDataError(f"{path} {why}. Delete it and encode again: only it is redone")


def is_whole(folder: Folder, shard: LatentShard) -> bool:
    """Whether a shard can be kept when an encoding goes on.

    A remote file is not fetched for this, only its size is compared: its readers compare the
    checksum of each shard they touch.
    """
    if not isinstance(folder, LocalFolder):
        return folder.size(shard.file.path) == shard.file.bytes
    try:
        check_shard(folder, shard, "sha256")
    except DataError:
        return False
    return True


def problems(folder: Folder, manifest: LatentManifest) -> list[str]:
    """One line per file that is missing, truncated or altered, and per count that is wrong."""
    found = _wrong_totals(folder, manifest)
    for shard in manifest.shards:
        try:
            check_shard(folder, shard, "sha256")
        except DataError as error:
            found.append(str(error))
    return found


def _count(folder: Folder, shard: LatentShard) -> None:
    """Compare the entry with the shapes of the arrays; the headers are enough for that."""
    path = folder.local(shard.file.path)
    indptr = map_file(path, "indptr")
    counts = [("rows", len(indptr) - 1), ("nnz", int(indptr[-1]) if len(indptr) else 0)]
    counts += [(what, len(map_file(path, name))) for name, what in _SIZES.items()]
    counts += [("rows", len(map_file(path, name))) for name in _ROWS]
    for what, n in counts:
        if n != getattr(shard, what):
            raise DamagedDataError(
                f"{path} holds {what} {n}, the manifest says {getattr(shard, what)}. The manifest "
                "was changed by hand: put it back, or encode the store again"
            )


def _wrong_totals(folder: Folder, manifest: LatentManifest) -> list[str]:
    """Sums of the manifest that its own shards do not give, and shards that it lost."""
    where, raw = f"{folder.url}/{MANIFEST}", json.loads(folder.read(MANIFEST))
    found = [
        f"{where} says {total} = {raw.get(total)}, its shards have {right}"
        for total, part in _TOTALS.items()
        if raw.get(total) != (right := sum(int(s[part]) for s in raw["shards"]))
    ]
    readable = in_a_row(manifest.shards)
    if manifest.complete and len(readable) < len(manifest.shards):
        row = sum(s.rows for s in readable)
        found.append(f"{where} says that the store is complete, but row {row} is missing")
    return found
