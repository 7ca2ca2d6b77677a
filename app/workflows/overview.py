"""What lies in a folder, in tables."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench import io
from lensbench.app.workflows.finding import CONFIG, find, once
from lensbench.app.workflows.live import Shelf, store_version
from lensbench.app.workflows.run_parts import told_state
from lensbench.app.workflows.runs import EVALUATION, list_runs
from lensbench.app.workflows.stores import store_info
from lensbench.errors import LensbenchError
from lensbench.models.loading import bundled_models

_stores: Shelf[dict[str, Any]] = Shelf(512)
"""Rows of a table of stores, until they change."""


def is_evaluated(run: Path) -> bool:
    """Whether a run holds an evaluation."""
    return (run / EVALUATION / "result.json").is_file()


def run_frame(root: Path) -> pd.DataFrame:
    """Runs below ``root``: state in words, progress, and whether they were evaluated."""
    rows = [
        {
            "run": Path(str(row["run"])).relative_to(root).as_posix(),
            "state": told_state(row),
            "dictionaries": row["dictionaries"],
            "step": row["step"],
            "steps": row["steps"],
            "tokens": row["tokens"],
            "evaluated": is_evaluated(Path(str(row["run"]))),
            "started (UTC)": in_words(str(row["started"])),
        }
        for row in list_runs(root)["runs"]
    ]
    return pd.DataFrame(rows)


def in_words(stamp: str) -> str:
    """A time as people write it, to the minute: ``2026-05-01 12:30``."""
    return stamp.replace("T", " ")[:16]


def store_frame(root: Path, names: list[str]) -> pd.DataFrame:
    """Stores by name: model, text, sites, tokens and size; a damaged one says so."""
    return pd.DataFrame([_store_row(root, name) for name in names])


def model_frame(root: Path) -> pd.DataFrame:
    """Models that come with the package, and those in hub format below ``root``."""
    package = Path(str(files("lensbench.data"))) / "models"
    found = [("bundled", name, package / name) for name in bundled_models()]
    found += [("folder", m.relative_to(root).as_posix(), m) for m in find(root).models]
    return pd.DataFrame([{"model": name, "from": where} | once(folder / CONFIG, "sizes", _sizes)
                         for where, name, folder in found])  # fmt: skip


def _sizes(config: Path) -> dict[str, Any]:
    told = io.read_json(config)
    weights = sum(f.stat().st_size for f in config.parent.glob("*.safetensors"))
    return {
        "family": told.get("model_type"),
        "layers": _size(told, "num_hidden_layers", "n_layer", "num_layers"),
        "width": _size(told, "hidden_size", "n_embd", "d_model"),
        "heads": _size(told, "num_attention_heads", "n_head", "num_heads"),
        "vocabulary": told.get("vocab_size"),
        "MiB": round(weights / 2**20, 1),
    }


def _size(told: dict[str, Any], *spellings: str) -> Any:
    """A size of a transformers config, whichever name its family gives it."""
    return next((told[name] for name in spellings if name in told), None)


def _store_row(root: Path, name: str) -> dict[str, Any]:
    try:
        key = (str(root / name), store_version(str(root / name)))
        return {"store": name} | _stores.get(key, lambda: _store_facts(root / name))
    except LensbenchError as error:
        return {"store": name, "state": str(error)}


def _store_facts(folder: Path) -> dict[str, Any]:
    info = store_info(folder)
    return {
        "state": "complete" if info["complete"] else "not complete",
        "model": info["model"],
        "text": info["text"],
        "sites": len(info["sites"]),
        "tokens": info["tokens"],
        "documents": info["documents"],
        "MiB": round(info["bytes"] / 2**20, 1),
    }
