"""What primitives need to know of a frame: its columns, their units, and what a hover says."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lensbench.errors import UnknownNameError
from lensbench.plots.bidi import isolated
from lensbench.plots.tables import shown
from lensbench.words import in_words, spelled

LONGEST = 44
"""Characters of a name beside a figure: a longer one would take the figure's room."""


def require(frame: pd.DataFrame, *columns: str | None) -> None:
    """Refuse columns the frame has not.

    Raises:
        UnknownNameError: naming the columns there are, and the nearest.
    """
    for column in columns:
        if column is not None and column not in frame.columns:
            raise UnknownNameError("column", column, known=[str(c) for c in frame.columns])


def title_of(
    frame: pd.DataFrame,
    column: str,
    *,
    unit: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Axis title: the column's label and its unit, ``entropy [nats]``.

    The unit comes from ``unit`` or ``frame.attrs["units"]``; a column without one shows none, and
    nothing is said twice: ``KL(clean ‖ steered) [nats]`` as a unit names the measure too.
    """
    name = labels[column] if labels and column in labels else spelled(column)
    known: Mapping[str, str] = frame.attrs.get("units", {})
    text = known.get(column, "") if unit is None else unit
    if not text or text in name:
        return name
    return text if text.startswith((name, "KL(")) else f"{name} [{text}]"


def aliases(values: Iterable[Any]) -> dict[str, str]:
    """For ticks that are our own names: what is read in their place (plotly's ``labelalias``)."""
    names = {str(value) for value in values if isinstance(value, str)}
    read = {name: escape_all([short(in_words(name))])[0] for name in sorted(names)}
    return {name: words for name, words in read.items() if words != name}


def short(name: str) -> str:
    """A long name by its two ends; the hover has the whole of it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 17]}…{name[-16:]}"


def groups(frame: pd.DataFrame, by: str | None) -> list[tuple[str, pd.DataFrame]]:
    """Sub-frames by the values of ``by``, in order of appearance; one unnamed group without.

    Our own names are put in words, long ones cut, and all escaped: plotly reads a little HTML in
    legends.
    """
    if by is None:
        return [("", frame)]
    named = [(in_words(str(key)), part) for key, part in frame.groupby(by, sort=False)]
    cut = [short(name) for name, _ in named]
    if len(set(cut)) < len(cut):  # two that differ in the middle alone
        cut = [name for name, _ in named]
    return list(zip(escape_all(cut), (part for _, part in named), strict=True))


def hover(
    frame: pd.DataFrame, columns: Iterable[str], labels: Mapping[str, str] | None = None
) -> tuple[np.ndarray, str]:
    """Custom data and template that show ``columns``, and ``n`` wherever the frame has it."""
    shown: list[str] = []
    for column in [*columns, *(["n"] if "n" in frame.columns else [])]:
        if column not in shown:
            shown.append(column)
    lines = [f"{title_of(frame, c, labels=labels)}: %{{customdata[{i}]}}" for i, c in
             enumerate(shown)]  # fmt: skip
    cells = np.array([[_text(v) for v in frame[c]] for c in shown], dtype=object).T
    return cells.reshape(len(frame), len(shown)), "<br>".join(lines) + "<extra></extra>"


def pivot(
    frame: pd.DataFrame, x: str, y: str, value: str
) -> tuple[np.ndarray, list[Any], list[Any]]:
    """Matrix ``[y, x]`` with the sorted keys of both axes; absent cells are NaN.

    Raises:
        ValueError: two rows for one cell (from pandas).
    """
    table = frame.pivot(index=y, columns=x, values=value)
    return table.to_numpy(dtype=np.float64), list(table.columns), list(table.index)


def escape_all(texts: Sequence[str]) -> list[str]:
    """Model text made inert for plotly, which reads a little HTML in tick labels and hovers.

    Control characters, and those that turn or hide text, become visible marks; right-to-left words
    are laid out apart.
    """
    return [_inert(isolated(shown(text))) for text in texts]


def said_missing(values: Any) -> str:
    """How many of the numbers to draw are none, in words; nothing where all are numbers."""
    known = np.isfinite(np.asarray(values, dtype=np.float64))
    left_out = int((~known).sum())
    return f"{left_out:,} of {known.size:,} values are undefined" if left_out else ""


def few_counts(values: Any) -> bool:
    """Whether these are whole numbers over a range so short that ticks would stand between them."""
    whole = np.asarray(values)
    return bool(whole.dtype.kind in "iu" and int(whole.max()) - int(whole.min()) <= 10)


def _inert(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        return "absent" if np.isnan(value) else f"{value:.4g}"
    return _inert(shown(str(value)))  # a page takes the key of what was clicked from here
