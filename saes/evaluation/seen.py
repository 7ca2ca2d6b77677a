"""Whether the rows an evaluation looks at are those a dictionary was trained on.

A number measured on the training rows flatters a dictionary; how much, nobody can tell from it. The
folder of a run knows where its activations came from: its sweep file where the store was named
there, its checkpoints by the fingerprint of the text, which the dictionary keeps too.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import io
from lensbench.config import load_yaml
from lensbench.errors import LensbenchError
from lensbench.saes.runs import SWEEP_FILE
from lensbench.store import open_store

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

ROWS, TEXT, NO, UNKNOWN = "rows", "text", "no", "unknown"
WORDS = {
    ROWS: "scored on the rows it was trained on",
    TEXT: "scored on the text it was trained on",
    NO: "scored on a text that is not the text it was trained on",
    UNKNOWN: "whether it was trained on these rows is unknown",
}
"""What each answer means, of one dictionary."""


def seen_in_training(run: Any, store: "ActivationStore") -> str:
    """``rows``, ``text``, ``no`` or ``unknown``: what of ``store`` the run was trained on.

    ``text`` is another capture of the same text. Only what was kept tells: a dictionary that does
    not name its text, without the folder of its run, is ``unknown``.
    """
    folder = Path(str(getattr(run, "folder", "") or "."))
    named = _store_of(folder.parent)
    if named and _place(named) == _place(store.url):
        return ROWS
    kept = getattr(run, "metadata", None) or {}
    theirs = str(kept.get("text_fingerprint") or "") or text_trained_on(folder)
    ours = store.text.get("fingerprint")
    if not theirs or not ours:
        return UNKNOWN
    return TEXT if theirs == ours else NO


def text_trained_on(folder: Path) -> str:
    """Fingerprint of the text that the dictionary in ``folder`` learned from; empty if untold."""
    return _text_of(_store_of(folder.parent)) or _text_of_checkpoint(folder)


def disclosure(seen: Mapping[str, str]) -> str:
    """One sentence on all dictionaries; empty where nothing was asked."""
    counts = {answer: list(seen.values()).count(answer) for answer in WORDS}
    parts = [
        text if n == len(seen) else f"{n} of {len(seen)} dictionaries: {text}"
        for (answer, text) in WORDS.items()
        if (n := counts[answer])
    ]
    return "each dictionary: " * (len(seen) > 1 == len(parts)) + "; ".join(parts)


def _store_of(run: Path) -> str:
    """The store that a run's sweep file names."""
    if not (run / SWEEP_FILE).is_file():
        return ""
    sweep = load_yaml(run / SWEEP_FILE)
    source = sweep.get("source") if isinstance(sweep, dict) else None
    return str((source or {}).get("store") or "")


def _text_of(url: str) -> str:
    """Fingerprint of the text of a store, where it can still be opened."""
    if not url:
        return ""
    try:
        return str(open_store(url, check="size").text.get("fingerprint") or "")
    except LensbenchError:
        return ""


def _text_of_checkpoint(folder: Path) -> str:
    """The same, from the position in the store that a checkpoint keeps."""
    for path in _newest_first(folder.glob("checkpoints/step_*/state.json")):
        source = io.read_json(path).get("source") or {}
        if source.get("kind") == "store" and source.get("store"):
            return str(source["store"])
    return ""


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda p: p.stat().st_mtime_ns, reverse=True)


def _place(url: str) -> str:
    return url if "://" in url else str(Path(url).resolve())
