"""Answers on a terminal: tables and lines that fit its width; elsewhere they are left whole.

In a table that is too wide, long texts go on in the next line (a single word is shortened in its
middle); where that is not enough, it is broken into tables of fewer columns, each of which begins
with the first. No number is left out.
"""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

MOST, LEAST, SHORTEST = 100, 40, 14
"""Columns of a terminal that are used; the narrowest that is served; least of a shortened text."""
VERBATIM = ("completion", "config", "help", "__complete")
"""Commands whose answer is to be copied or read by a program: their lines are never broken."""
_PIECE = re.compile(r"(?<=[ ,(/])")
_WIDTH: ContextVar[int | None] = ContextVar("width", default=None)


def terminal_width() -> int | None:
    """Columns to keep to: those of the terminal, at most 100; None where it is none.

    ``COLUMNS`` in the environment counts as a terminal of that width.
    """
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()):
        return None
    return max(LEAST, min(MOST, shutil.get_terminal_size((MOST, 24)).columns))


@contextmanager
def fitted(width: int | None) -> Generator[None]:
    """Tables made meanwhile keep to ``width``."""
    token = _WIDTH.set(width)
    try:
        yield
    finally:
        _WIDTH.reset(token)


Line = list[str]


def blocks_of(cells: Sequence[Sequence[str]], right: Sequence[bool]) -> list[list[Line]]:
    """The lines of a table (its first row the names), as one table or more that fit."""
    table = [list(row) for row in cells]
    width = _WIDTH.get()
    if width is None or _total(table) <= width:
        return [table]
    words = [i for i, number in enumerate(right) if not number]
    room = _cap([_of(table, i) for i in words], width - _total(table))
    cut = [[_cell_lines(text, room) if i in words else [text] for i, text in enumerate(row)]
           for row in table]  # fmt: skip
    found: list[list[int]] = [[0]]
    for i in range(1, len(right)):
        trial = [_lines_of(row, [*found[-1], i]) for row in cut]
        if _total([line for lines in trial for line in lines]) > width and found[-1] != [0]:
            found.append([0])
        found[-1].append(i)
    return [[line for row in cut for line in _lines_of(row, chosen)] for chosen in found]


def _cap(widths: Sequence[int], spare: int) -> int:
    """The widest that texts may be, so that together they give up what is missing."""
    room = max(widths, default=SHORTEST)
    while room > SHORTEST and sum(max(0, w - room) for w in widths) < -spare:
        room -= 1
    return room


def _cell_lines(text: str, room: int) -> list[str]:
    """A cell broken at words, commas and brackets; what is still too long loses its middle."""
    lines = [""]
    for piece in _PIECE.split(text):
        if len((lines[-1] + piece).rstrip()) > room and lines[-1]:
            lines.append("")
        lines[-1] += middle(piece, room)
    return [line.strip() for line in lines]


def _lines_of(row: Sequence[Sequence[str]], chosen: Sequence[int]) -> list[Line]:
    """One row of a table as the lines that its tallest cell needs."""
    high = max(len(row[i]) for i in chosen)
    return [[row[i][k] if k < len(row[i]) else "" for i in chosen] for k in range(high)]


def middle(text: str, room: int) -> str:
    """The text in ``room`` characters: what stands in the middle makes way for two dots."""
    if len(text) <= room:
        return text
    front = (room - 2 + 1) // 2
    return f"{text[:front]}..{text[len(text) - (room - 2 - front) :]}"


def wrapped(text: str) -> str:
    """Lines that are too long, broken at words; what goes on is set in by two."""
    width = _WIDTH.get()
    if width is None:
        return text
    lines: list[str] = []
    for line in text.splitlines():
        if len(line) <= width:
            lines.append(line)
            continue
        inset = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(line, width, subsequent_indent=inset, replace_whitespace=False,
                               drop_whitespace=True, break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines)


def wrapped_value(name: str, value: str) -> str:
    """``name  value`` where the value may be long: what goes on stands below its beginning."""
    width = _WIDTH.get()
    if width is None or len(name) + len(value) <= width:
        return name + value
    inset = " " * min(len(name), width // 2)
    return textwrap.fill(value, width, initial_indent=name, subsequent_indent=inset,
                         break_on_hyphens=False)  # fmt: skip


def _of(table: Sequence[Sequence[str]], i: int) -> int:
    return max(len(row[i]) for row in table)


def _total(table: Sequence[Sequence[str]]) -> int:
    n = len(table[0])
    return sum(_of(table, i) for i in range(n)) + 2 * (n - 1)
