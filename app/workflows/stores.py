"""What can be asked of a store from outside: facts, checks, samples, removal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.app.workflows.finding import find
from lensbench.errors import ConfigError, DamagedDataError, DataError, MissingDataError
from lensbench.saes.latents.manifest import KIND as LATENTS
from lensbench.saes.latents.store import LatentStore, open_latents
from lensbench.store import ActivationStore, open_store
from lensbench.store.checks import kind_of
from lensbench.store.folder import LocalFolder
from lensbench.store.manifest import MANIFEST, PARTS


def find_stores(root: Path) -> list[Path]:
    """Activation stores under ``root``, by name; those of controls (``*-twin``) come last.

    Latent stores have a manifest too, which says that it is another.

    Raises:
        MissingDataError: no such folder.
    """
    if not root.is_dir():
        raise MissingDataError(f"no folder {root}; stores are written where --out says")
    return list(find(root).stores)


def store_info(folder: Path) -> dict[str, Any]:
    """Model, text, settings, sites and sizes of a store.

    Raises:
        MissingDataError, DamagedDataError: no store there, or its manifest cannot be read.
    """
    store = open_store(folder, check="size")
    return {
        "folder": store.url,
        "model": store.model.get("name"),
        "fingerprint": store.model.get("fingerprint"),
        "text": store.text.get("name") or store.text.get("path") or store.text.get("kind"),
        "layout": store.settings.get("layout"),
        "dtype": store.dtype,
        "tokens": store.n_tokens,
        "documents": store.n_docs,
        "shards": len(store.manifest["shards"]),
        "bytes": sum(_sizes(store)),
        "complete": store.complete,
        "sites": [
            {
                "site": name,
                "width": store.width(name),
                "alias_of": store.manifest["sites"][name]["alias"] or "",
            }
            for name in store.sites
        ],
    }


def verify_store(folder: Path, progress: Callable[..., None] | None = None) -> dict[str, Any]:
    """Compare every file with its checksum, and its counts with the manifest.

    The folder may hold activations or latents; its manifest says which.

    Raises:
        DamagedDataError: every damaged or missing file and every wrong count, by name.
    """
    latents = kind_of(LocalFolder(folder)) == LATENTS
    store = open_latents(folder, check="size") if latents else open_store(folder, check="size")
    if isinstance(store, LatentStore) or progress is None:
        problems = store.verify()
    else:
        problems = store.verify(lambda done, total: progress(done=done, total=total))
    if problems:
        raise DamagedDataError(f"{len(problems)} problem(s): " + "; ".join(problems))
    sizes = _sizes(store)
    return {"folder": store.url, "files": len(sizes), "bytes": sum(sizes), "verdict": "sound"}


def sample_store(folder: Path, *, n: int, site: str | None, seed: int) -> dict[str, Any]:
    """``n`` random rows: document, position, token id, and the norm of the activation.

    Raises:
        ConfigError: ``n`` below 1, or a store without rows.
    """
    store = open_store(folder)
    if n < 1:
        raise ConfigError(f"-n must be at least 1, got {n}")
    if not store.n_tokens or not store.sites:
        raise ConfigError(f"{store.url} holds no rows yet")
    chosen = site or store.sites[0]
    size = min(n, store.n_tokens)
    rows = np.sort(np.random.default_rng(seed).choice(store.n_tokens, size, replace=False))
    values, index = store.rows(chosen, rows), store.index()
    return {
        "site": chosen,
        "rows": [
            {
                "row": int(row),
                "document": int(index.doc_ids[row]),
                "position": int(index.positions[row]),
                "token_id": int(index.token_ids[row]),
                "norm": float(np.linalg.norm(values[i])),
            }
            for i, row in enumerate(rows)
        ],
    }


OWN = (
    MANIFEST,
    "provenance.json",
    ".lock",
    f"{PARTS}/b*.json",
    "tokens/b*.safetensors",
    "acts/*/b*.safetensors",
    "**/.*.tmp",
)
"""Files that a capture writes; nothing else in the folder is touched."""


def list_stores(root: Path) -> dict[str, Any]:
    """Stores under ``root``: model, text, layers kept, tokens, bytes; damaged ones say so.

    Raises:
        MissingDataError: no such folder.
    """
    return {"root": str(root), "stores": [_row(folder) for folder in find_stores(root)]}


def _row(folder: Path) -> dict[str, Any]:
    try:
        facts = store_info(folder)
    except DataError as error:  # one that cannot be read does not hide the others
        return {"store": str(folder), "model": "", "text": "", "sites": 0, "tokens": 0, "bytes": 0,
                "state": f"damaged: {error}"}  # fmt: skip
    return {
        "store": str(folder),
        "model": facts["model"],
        "text": facts["text"],
        "sites": len(facts["sites"]),
        "tokens": facts["tokens"],
        "bytes": facts["bytes"],
        "state": "complete" if facts["complete"] else "begun",
    }


def remove_store(folder: Path, *, yes: bool) -> dict[str, Any]:
    """Remove the files of a store, and its folders where they are empty then.

    Raises:
        MissingDataError: the folder holds no store.
        ConfigError: not confirmed.
    """
    _require_store(folder)
    if not yes:
        raise ConfigError(f"this would remove the store in {folder} for good; add --yes to do it")
    for path in [path for pattern in OWN for path in folder.glob(pattern)]:
        path.unlink()
    inside = [folder / PARTS, folder / "tokens", *(folder / "acts").glob("*"), folder / "acts"]
    for place in [*inside, folder]:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
    left = [str(path) for path in folder.rglob("*") if path.is_file()]
    return {"removed": str(folder), **({"left": left} if left else {})}


def store_size(folder: Path) -> int:
    """Bytes that removing a store would free.

    Raises:
        MissingDataError: the folder holds no store.
    """
    _require_store(folder)
    return sum(path.stat().st_size for pattern in OWN for path in folder.glob(pattern))


def _require_store(folder: Path) -> None:
    if not (folder / MANIFEST).is_file() and not any((folder / PARTS).glob("b*.json")):
        raise MissingDataError(f"{folder} holds no activation store; nothing was removed")


def _sizes(store: ActivationStore | LatentStore) -> list[int]:
    """Bytes of every file of a store."""
    shards = store.manifest["shards"]
    if isinstance(store, LatentStore):
        return [shard["file"][1] for shard in shards]
    return [entry[1] for shard in shards for entry in shard["files"].values()]
