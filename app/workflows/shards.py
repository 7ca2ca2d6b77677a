"""A store looked at from a page: its shards on disk, and stored tokens in their own words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import words_of
from lensbench.app.workflows.stores import sample_store, store_info
from lensbench.plots import visible

BEFORE = 8
"""Tokens shown before a sampled one."""
SHOWN = 128
"""Tokens of a sequence that are shown at once."""


def shard_frame(folder: Path) -> pd.DataFrame:
    """One row per shard: rows, sequences, documents, bytes, and whether its files are as written.

    The state compares sizes, which is quick; checksums are what ``verify_store`` is for.
    """
    store = hold_store(str(folder))
    rows: list[dict[str, Any]] = []
    for shard in store.manifest["shards"]:
        files = shard["files"].values()
        bad = [str(f[0]) for f in files if _size(folder / str(f[0])) != int(f[1])]
        rows.append(
            {
                "shard": shard["batch"],
                "rows": shard["rows"],
                "sequences": shard["sequences"],
                "first_document": shard["first_doc"],
                "last_document": shard["last_doc"],
                "files": len(files),
                "MiB": sum(int(f[1]) for f in files) / 2**20,
                "state": f"missing or cut: {', '.join(bad)}" if bad else "complete",
            }
        )
    return pd.DataFrame(rows)


def sites_frame(folder: Path) -> pd.DataFrame:
    """One row per stored site: what one token takes there, and as which numbers."""
    store = hold_store(str(folder))
    known = store.manifest["sites"]
    rows: list[dict[str, Any]] = []
    for row in store_info(folder)["sites"]:
        own = known[row["site"]]
        shape = " x ".join(map(str, own.get("shape", [row["width"]])))
        rows.append({"site": row["site"], "shape": shape, "axes": own.get("axes", ""),
                     "numbers": store.dtype, "alias_of": row["alias_of"]})  # fmt: skip
    return pd.DataFrame(rows)


def files_frame(folder: Path, shard: int) -> pd.DataFrame:
    """One row per file of a shard, with the checksum that was taken when it was written."""
    found = next(s for s in hold_store(str(folder)).manifest["shards"] if s["batch"] == shard)
    return pd.DataFrame([{"of": name, "file": str(f[0]), "bytes": int(f[1]), "sha256": str(f[2])}
                         for name, f in found["files"].items()])  # fmt: skip


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest without its list of shards, which is a table of its own."""
    told = hold_store(str(folder)).manifest
    return {k: v for k, v in told.items() if k != "shards"}


def sample_frame(folder: Path, *, n: int, site: str, seed: int) -> pd.DataFrame:
    """Random stored rows with their token, the tokens before it, and the activation's norm."""
    store = hold_store(str(folder))
    found = sample_store(folder, n=n, site=site, seed=seed)["rows"]
    rows: list[dict[str, Any]] = []
    for row in found:
        sequence = store.sequence_of(int(row["row"]))
        at = int((sequence.rows[0] == row["row"]).argmax())
        ids = sequence.tokens.ids[0].numpy()[max(0, at - BEFORE) : at + 1]
        words = [visible(word) for word in words_of(store, ids)]
        rows.append({**row, "before": _joined(words[:-1]), "token": words[-1]})
    columns = ["row", "document", "position", "token_id", "before", "token", "norm"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs["units"] = {"norm": "length of the stored activation vector"}
    return frame


@dataclass(frozen=True)
class Around:
    """The sequence of a stored row: words, and the row of each (-1: not stored)."""

    words: tuple[str, ...]
    rows: list[int]
    focus: int
    token_id: int
    document: int
    left: str
    """What is not shown, in words; or empty."""


def around(folder: Path, row: int) -> Around:
    """The sequence around a row, at most :data:`SHOWN` tokens of it.

    Raises:
        MissingDataError: no store there (any more).
    """
    store = hold_store(str(folder))
    sequence = store.sequence_of(row)
    at = int((sequence.rows[0] == row).argmax())
    real = len(sequence.rows[0])
    first = max(0, min(at - SHOWN // 2, real - SHOWN))
    part = slice(first, min(real, first + SHOWN))
    ids = sequence.tokens.ids[0].numpy()
    cut = real - (part.stop - part.start)
    left = f" {cut} tokens of the sequence further away are not shown." if cut else ""
    index = store.index()
    return Around(
        words_of(store, ids[part]), [int(r) for r in sequence.rows[0][part]], at - first,
        int(ids[at]), int(index.doc_ids[row]), left,
    )  # fmt: skip


def _joined(words: list[str]) -> str:
    """Words of a tokenizer whose tokens bring no spaces are set apart."""
    return ("" if any("␣" in word for word in words) else " ").join(words)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
