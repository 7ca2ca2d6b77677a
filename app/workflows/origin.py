"""What the numbers of a page come from: its model, store and run, by name and fingerprint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensbench.app.workflows.finding import read_json
from lensbench.app.workflows.live import hold_store, opened
from lensbench.errors import LensbenchError

_STORES, _RUNS = ("store", "twin", "fitted", "stores", "controls"), ("run",)
"""Keys of the widgets that choose one or, as a list, several of them."""
_RECORD = "provenance.json"


def origin(root: Path, chosen: Mapping[str, Any]) -> list[str]:
    """A line for each model, store and run among the widgets' values, as far as they are open.

    Nothing is opened for it but small files: a model that no page has used has no line.
    """
    told = [_model(root, chosen.get("model"))]
    for key, tell in (*((k, _store) for k in _STORES), *((k, _run) for k in _RUNS)):
        value = chosen.get(key)
        for name in value if isinstance(value, list | tuple) else [value]:
            folder = root / name if isinstance(name, str) and name else None
            if folder is not None and folder.resolve().is_relative_to(root) and folder.is_dir():
                told.append(tell(str(name), folder))
    return [line for line in dict.fromkeys(told) if line]


def _model(root: Path, name: Any) -> str:
    if not isinstance(name, str):
        return ""
    model = opened(name) or opened(str(root / name))  # one of the root goes by its place there
    return "" if model is None else f"model {of_model(vars(model.card))}"


def of_model(card: Mapping[str, Any]) -> str:
    """``name, revision r, float32, weights 0123456789abcdef`` of what a card or manifest tells."""
    known = [str(card.get("name") or "unknown")]
    known += [f"revision {card['revision']}"] if card.get("revision") else []
    known += [str(card["dtype"])] if card.get("dtype") else []
    known += [f"weights {card['fingerprint']}"] if card.get("fingerprint") else []
    return ", ".join(known)


def _store(name: str, folder: Path) -> str:
    try:
        store = hold_store(str(folder))
    except LensbenchError:  # gone or damaged: the page has said so
        return ""
    return f"store {name}, contents {store.fingerprint}, of {of_model(store.model)}"


def _run(name: str, folder: Path) -> str:
    try:
        record = read_json(folder / _RECORD)
    except LensbenchError:  # one that has not begun, or damaged: the page has said so
        return ""
    made = f", {record['when'][:10]}" if record.get("when") else ""
    version = record.get("versions", {}).get("lensbench", "")
    return f"run {name}{made}, lensbench {version}, of {of_model(record.get('model', {}))}"
