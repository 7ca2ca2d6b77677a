"""What a command says: progress on stderr, one answer on stdout."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lensbench.app.cli.fitting import blocks_of, wrapped_value


@dataclass(frozen=True)
class Answer:
    """What a command gives back: a JSON-able document, and the same in words."""

    document: Mapping[str, Any]
    text: str = ""
    exit_code: int = 0


class Progress:
    """Short lines on stderr, at most one a second; on a terminal they replace one another.

    Called with keyword facts or one mapping: ``progress(step=3, steps=10, loss=0.2)``. A row with
    ``done`` of ``total`` (or ``step`` of ``steps``) shows its share.
    """

    def __init__(self, label: str = "", every: float = 1.0) -> None:
        self._label, self._every, self._last, self._open = label, every, 0.0, False

    def __call__(self, *rows: Mapping[str, Any] | str, **facts: Any) -> None:
        """Say where the work stands."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        words = [row for row in rows if isinstance(row, str)]
        for row in rows:
            if not isinstance(row, str):
                facts = {**row, **facts}
        self._write(" ".join(part for part in (self._label, *words, _facts(facts)) if part))

    def say(self, text: str) -> None:
        """One line that stays."""
        self.end()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line that was being rewritten."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False

    def _write(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[2K" + text[:150])
            self._open = True
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def dump(document: Mapping[str, Any]) -> str:
    """The document as JSON: NaN and infinity become null, paths and numpy numbers plain values."""
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as an aligned text table; numbers right, floats with four significant digits.

    On a terminal it keeps to its width: see ``fitting``.
    """
    if not rows:
        return "(none)"
    names = list(columns) or list(rows[0])
    right = [all(isinstance(row.get(n), (int, float)) for row in rows) for n in names]
    sides = dict(zip(names, right, strict=True))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    found: list[str] = []
    for block in blocks_of(cells, right):
        widths = [max(len(row[i]) for row in block) for i in range(len(block[0]))]
        aligned = [sides.get(name, False) for name in block[0]]
        found.append("\n".join(_aligned(row, widths, aligned) for row in block))
    return "\n\n".join(found)


def fields(pairs: Mapping[str, Any]) -> str:
    """``name  value`` lines, aligned; a value too long for a terminal goes on below."""
    width = max((len(k) for k in pairs), default=0)
    return "\n".join(wrapped_value(f"{k:<{width}}  ", _cell(v)) for k, v in pairs.items())


def for_people(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """The same with numbers of bytes as sizes; JSON keeps the bytes."""
    told = {k: v for k, v in pairs.items() if v is not None}
    sizes = {k: size(v) for k, v in told.items() if k == "bytes" or k.endswith("_bytes")}
    return {**pairs, **sizes}


def size(n_bytes: float) -> str:
    """Bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


@dataclass(frozen=True)
class Watch:
    """Seconds since it was made."""

    start: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.start


def _aligned(cells: Iterable[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
    return "  ".join(parts).rstrip()


def _facts(facts: Mapping[str, Any]) -> str:
    shown: list[str] = []
    rest = dict(facts)
    for done, total in (("done", "total"), ("step", "steps"), ("tokens", "total_tokens")):
        if done in rest and rest.get(total):
            a, b = rest.pop(done), rest.pop(total)
            shown.append(f"{done} {a:,}/{b:,} ({100 * a / b:.0f} %)")
    shown += [f"{k} {_cell(v)}" for k, v in rest.items() if not isinstance(v, (dict, list))]
    return "  ".join(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "absent" if value != value else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else _line(str(value))


def _line(text: str) -> str:
    """A token of line breaks or tabs must not break the line of a table: they are spelled out."""
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
