"""What the Patching page says of its pairs: their tokens side by side, files, and a start."""

from pathlib import Path
from typing import Any

import pandas as pd

from lensbench import prompts
from lensbench.app.workflows.finding import find
from lensbench.app.workflows.live import running
from lensbench.app.workflows.own_pairs import Aligned, Rows, alignments, own_pairs
from lensbench.errors import LensbenchError
from lensbench.prompts.pairs import PromptPairs

_MOST = 1 << 20
_GENERAL: Rows = (
    ("The Eiffel Tower is in the city of", "The Colosseum is in the city of", "Paris", "Rome"),
)
"""A start for models that no task fits."""
_START = ("recall", "agreement")


def task_rows(model: str, task: str, n: int, shown: int) -> Rows:
    """The first pairs of a task, as rows of the editor.

    Raises:
        NotEnoughDataError: a task that this tokenizer cannot express.
    """
    with running(model) as held:
        return _rows(prompts.TASKS[task](held, n=n, seed=0))[:shown]


def sample_rows(model: str) -> Rows:
    """A few pairs to start from: those of a task that this model's tokenizer can express."""
    for task in _START:
        try:
            return task_rows(model, task, 4, 4)
        except LensbenchError:  # this tokenizer cannot express the task
            continue
    return _GENERAL


def _rows(pairs: PromptPairs) -> Rows:
    return tuple(zip(pairs.clean_texts, pairs.corrupted_texts,
                     (a.strip() for a in pairs.answer_texts),
                     (f.strip() for f in pairs.foil_texts), strict=True))  # fmt: skip


def alignment_of(model: str, rows: Rows) -> pd.DataFrame:
    """Two rows per pair, a column per token; a token that differs stands in brackets."""
    with running(model) as held:
        found = alignments(held, rows)
    width = max((max(len(a.clean), len(a.corrupted)) for a in found), default=0)
    lines: list[dict[str, Any]] = []
    for pair in found:
        for side in ("clean", "corrupted"):
            lines.append({"pair": pair.number, "prompt": side, **_cells(pair, side, width),
                          "note": pair.why})  # fmt: skip
    return pd.DataFrame(lines, columns=["pair", "prompt", *map(str, range(width)), "note"])


def _cells(pair: Aligned, side: str, width: int) -> dict[str, str]:
    mine, other = (pair.clean, pair.corrupted)
    if side == "corrupted":
        mine, other = other, mine
    padded = [*other, *[""] * width]
    return {
        str(i): "" if i >= len(mine) else mine[i] if mine[i] == padded[i] else f"[{mine[i]}]"
        for i in range(width)
    }


def csv_files(root: Path) -> list[str]:
    """CSV files below ``root`` that could hold pairs, by name."""
    small = (path for path in find(root).tables if path.stat().st_size <= _MOST)
    return [path.relative_to(root).as_posix() for path in small]


def pairs_file(model: str, rows: Rows) -> str:
    """The pairs that are aligned, as ``lensbench patch --pairs`` reads them."""
    with running(model) as held:
        return own_pairs(held, rows).to_json()
