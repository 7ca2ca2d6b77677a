"""Frames as inert HTML tables: inline style, every string escaped, no script.

For notebooks and pages. Control characters, which may hide or reorder text, become visible marks.
"""

import re
import unicodedata
from html import escape
from typing import TYPE_CHECKING, Any

from lensbench.plots.bidi import isolated
from lensbench.words import SPELLED, in_words, spelled

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS, MAX_COLUMNS = 20, 14
_STYLE = "border-collapse:collapse;font-size:13px"
_CELL = "padding:2px 8px;border-bottom:1px solid rgba(128,128,128,.3);text-align:{align}"
_UNBROKEN = 40
"""Characters of a cell that stay on one line: names of runs and sites break at their hyphens."""
_BROKEN = ";min-width:14em;max-width:30em;overflow-wrap:anywhere"
_OURS = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"}


def shown(text: str) -> str:
    """Control and formatting characters as visible marks; everything else as it is.

    C0 controls become their pictures (``␀`` to ``␟``); other controls, and formatting characters
    that turn or hide text, become ``U+202E`` and the like.
    """
    return "".join(_mark(c) for c in text)


def _mark(char: str) -> str:
    if char in _MARKS:
        return _MARKS[char]
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"[U+{ord(char):04X}]"
    return char


def html_table(frame: "pd.DataFrame", *, caption: str = "", max_rows: int = MAX_ROWS) -> str:
    """A frame's first ``max_rows`` rows and 14 columns as a static table; says how many there are.

    Units from ``frame.attrs["units"]`` stand under the column names. Our own names are put in
    words, an interval stands behind its number, what a row lacks is a dash, and columns that say
    nothing (-1, or no text, everywhere) are left out.
    """
    units: dict[Any, Any] = dict(frame.attrs.get("units", {}))
    frame = _spans(_saying(frame), units)
    wide, frame = frame.shape[1], frame.iloc[:, :MAX_COLUMNS]
    head = "".join(_th(str(c), str(units.get(c, ""))) for c in frame.columns)
    rows = frame.head(max_rows).itertuples(index=False, name=None)
    body = "".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in rows)
    cut = [f"{len(frame):,} rows, the first {max_rows} shown"] * (len(frame) > max_rows)
    cut += [f"{wide} columns, the first {MAX_COLUMNS} shown"] * (wide > MAX_COLUMNS)
    more = "; ".join(cut)
    above = f"<div>{safe(caption)}</div>" if caption else ""
    below = f"<div>{more}</div>" if more else ""
    return (
        f'<div class="lensbench">{above}<table style="{_STYLE}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>{below}</div>"
    )


def safe(text: str) -> str:
    """Text for HTML: marks for control characters, right-to-left words apart, then escaped."""
    return escape(isolated(shown(text)), quote=True)


def _th(name: str, unit: str) -> str:
    if unit.startswith(words := _header(name)):  # a unit that says the name again
        unit = re.sub(r"^\[(.*?)\]", r"\1", unit.removeprefix(words).strip())
    under = f'<br><small style="opacity:.7">{safe(unit)}</small>' if unit else ""
    return f'<th style="{_CELL.format(align="left")}">{safe(words)}{under}</th>'


def _saying(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Without columns of an axis that is not there: those hold -1 or "" in every row."""
    empty = [len(frame) > 1 and set(frame.iloc[:, i].tolist()) <= {-1, ""}
             for i in range(frame.shape[1])]  # fmt: skip
    return frame.loc[:, [not one for one in empty]]


class _Span(str):
    """A number with its interval, as it is read."""


def _spans(frame: "pd.DataFrame", units: dict[Any, Any]) -> "pd.DataFrame":
    """``rate``, ``rate_low`` and ``rate_high`` (or ``low`` and ``high`` after it) in one column.

    Three columns of digits for each number make a table wider than a page.
    """
    columns = [str(c) for c in frame.columns]
    if len(set(columns)) < len(columns):
        return frame
    for low in [c for c in columns if c == "low" or c.endswith("_low")]:
        high = f"{low[:-3]}high"
        before = columns[columns.index(low) - 1]
        name = low[:-4] if low != "low" else before
        if not {name, high} <= set(columns) or low == columns[0] or name in ("low", "high"):
            continue
        told = [_span(*row) for row in zip(frame[name], frame[low], frame[high], strict=True)]
        frame = frame.assign(**{name: told}).drop(columns=[low, high])
        columns = [str(c) for c in frame.columns]
        units[name] = f"{units.get(name, '')} (low to high)".strip()
    return frame


def _span(*ends: Any) -> Any:
    value, low, high = (end.item() if hasattr(end, "item") else end for end in ends)
    known = all(isinstance(v, (int, float)) and v == v for v in (value, low, high))
    return _Span(f"{value:.4g} ({low:.4g} to {high:.4g})") if known else value


def _header(name: str) -> str:
    """``n_tokens`` as ``n tokens``; what a user gave, such as ``topk-512-k8``, as it is."""
    return spelled(name) if _OURS.fullmatch(name) else name


def _edges(text: str) -> str:
    """Spaces at the ends, which a browser would swallow, as marks: most tokens begin with one."""
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text)
    before, after = text.split(inner, 1)
    return "␣" * len(before) + inner + "␣" * len(after)


def _td(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value  # numpy's numbers
    number = isinstance(value, (int, float, _Span)) and not isinstance(value, bool)
    if value is None:
        text = "-"
    elif isinstance(value, _Span):
        text = str(value)
    elif isinstance(value, float):
        text = "NaN" if value != value else f"{value:.4g}"
    else:
        text = _edges(SPELLED.get(str(value), in_words(str(value))))
    style = _CELL.format(align="right" if number or text == "-" else "left")
    style += ";white-space:nowrap" if len(text) <= _UNBROKEN else _BROKEN
    return f'<td style="{style}">{safe(text)}</td>'
