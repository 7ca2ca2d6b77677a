"""Results: frozen values with a frame, a picture, controls, provenance, and a safe file format.

A subclass is a frozen keyword-only dataclass whose fields are numpy arrays, numbers, strings, or
JSON-able containers. ``save`` writes ``result.json`` and ``arrays.safetensors`` (never a pickle);
:func:`load` gives back an equal object.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lensbench import io
from lensbench.errors import DamagedDataError, UnknownNameError
from lensbench.provenance import Provenance
from lensbench.words import spelled

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SCHEMA = 1
UNDEFINED = "undefined"
"""What is said in place of a NaN: it is no number."""
_KINDS: "dict[str, type[Result]]" = {}


@dataclass(frozen=True)
class Controls:
    """What the same procedure scores where nothing is to be found.

    ``values`` maps a control's name (``reinitialised_twin``, ``shuffled_labels`` ...) to its score;
    :meth:`__str__` prints "uncontrolled" when there is none.

    Example:
        >>> str(lensbench.Controls({"shuffled_labels": 0.5}))
        'shuffled labels 0.500'
    """

    values: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str = ""

    def __str__(self) -> str:
        """Names in words and scores, or ``uncontrolled``."""
        if not self.values:
            return "uncontrolled"
        return ", ".join(
            f"{spelled(name)} {f'{value:.3f}' if value == value else UNDEFINED}"
            for name, value in self.values.items()
        )

    def __bool__(self) -> bool:
        """Whether there is any control."""
        return bool(self.values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Base of every result. Subclasses add fields, ``to_frame``, ``plot`` and ``summary``."""

    kind: ClassVar[str] = "Result"
    columns_shown: ClassVar[tuple[str, ...]] = ()
    """Columns that a notebook shows of a frame wider than a page (their intervals too); () for all.
    """
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: Provenance = field(default_factory=Provenance)
    controls: Controls = field(default_factory=Controls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the class under its name, so that :func:`load` finds it."""
        super().__init_subclass__(**kwargs)
        cls.kind = cls.__name__
        _KINDS[cls.__name__] = cls
        # Before the dataclass decorator comes to write one that prints whole arrays.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Result.__repr__

    def to_frame(self) -> "pd.DataFrame":
        """One row per measured number; units in ``frame.attrs["units"]``."""
        raise TypeError(f"{type(self).__name__} does not define to_frame")

    def plot(self) -> "go.Figure":
        """The standard picture."""
        raise TypeError(f"{type(self).__name__} does not define plot")

    def summary(self) -> dict[str, float]:
        """Headline numbers for the command line and metric cards."""
        return {}

    def absent(self, name: str) -> str:  # noqa: ARG002 - for those that know more
        """Why a headline number is NaN, in a few words; kinds that know more say more."""
        return UNDEFINED

    def __repr__(self) -> str:
        """One line: the kind, its headline numbers, and those that there are not."""
        known, why = list[str](), dict[str, list[str]]()
        for name, value in self.summary().items():
            if value == value:
                known.append(f"{name} {number(value)}")
            else:
                why.setdefault(self.absent(name), []).append(name)
        parts = [", ".join(known), *(f"{reason}: {', '.join(n)}" for reason, n in why.items())]
        return f"{self.kind}({'; '.join(part for part in parts if part)})"

    def _repr_html_(self) -> str:
        """For notebooks: a line, then a static table; inline style, every string escaped."""
        from lensbench.plots.tables import safe
        from lensbench.words import in_words, spelled

        line, told_below = repr(self), self.controls.values
        for name, value in self.summary().items():
            if told_below.get(name) == value:  # it stands among the controls
                line = re.sub(
                    rf"(, )?\b{re.escape(name)} {re.escape(number(value))}(?=[,;)])", "", line
                )
        for name in self.summary():  # as they are read; in Python they keep their names
            line = re.sub(rf"(?<![\w.-]){re.escape(name)}(?=[ ,;)])", spelled(name), line)
        told = safe(in_words(f"{line}; controls: {self.controls}"))
        return f'<div class="lensbench"><div>{told}</div>{self._html_body()}</div>'

    def _html_body(self) -> str:
        """What a notebook shows below that line; kinds that are read otherwise say how."""
        from lensbench.plots.tables import html_table

        frame, chosen = self.to_frame(), self.columns_shown
        if not chosen or not len(frame.columns):
            return html_table(frame)
        kept = [c for c in frame.columns if re.sub("_(low|high)$", "", str(c)) in chosen]
        order = sorted(kept, key=lambda c: chosen.index(re.sub("_(low|high)$", "", str(c))))
        some = frame.loc[:, order]
        some.attrs.update(frame.attrs)
        below = f"<div>to_frame() has all {len(frame.columns)} columns</div>"
        return html_table(some) + below * (len(kept) < len(frame.columns))

    def save(self, folder: Path | str) -> Path:
        """Write ``result.json`` and ``arrays.safetensors`` into ``folder``; return the folder."""
        folder = Path(folder)
        arrays: dict[str, np.ndarray] = {}
        body = {f.name: _pack(getattr(self, f.name), f.name, arrays) for f in fields(self)}
        if arrays:
            io.write_arrays(folder / "arrays.safetensors", arrays)
        digest = io.sha256_file(folder / "arrays.safetensors") if arrays else ""
        io.write_json(
            folder / "result.json",
            {
                "kind": self.kind,
                "module": type(self).__module__,
                "schema": SCHEMA,
                "arrays_sha256": digest,
                "fields": body,
            },
        )
        return folder

    def __eq__(self, other: object) -> bool:
        """Equal fields, arrays compared by value (NaN equals NaN)."""
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - holds arrays


def number(value: float) -> str:
    """A number in four digits, counts in all of theirs; NaN as ``undefined``.

    Example:
        >>> from lensbench.results import number
        >>> number(59992.0), number(0.123456), number(float("nan"))
        ('59992', '0.1235', 'undefined')
    """
    if value != value:
        return UNDEFINED
    return f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else f"{value:.4g}"


def load(folder: Path | str) -> Result:
    """Read a result written by :meth:`Result.save`.

    Raises:
        MissingDataError: no result there.
        DamagedDataError: not readable, or the arrays are not those that were written.
        UnknownNameError: a kind this version does not know; import the package that defines it.
    """
    folder = Path(folder)
    document = io.read_json(folder / "result.json")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        told = document.get("schema") if isinstance(document, dict) else None
        newer = isinstance(told, int) and told > SCHEMA
        raise DamagedDataError(
            f"{folder / 'result.json'} is not a schema-{SCHEMA} result"
            + (f" but one of schema {told}: it was written by a newer lensbench; open it with that "
               "version" if newer else "; it was altered, or something else wrote it")
        )  # fmt: skip
    kind = _kind(document["kind"], str(document.get("module", "")))
    arrays: dict[str, np.ndarray] = {}
    if document["arrays_sha256"]:
        path = folder / "arrays.safetensors"
        arrays = io.read_arrays(path)
        if io.sha256_file(path) != document["arrays_sha256"]:
            raise DamagedDataError(f"{path} was altered after it was written (sha256 differs)")
    return kind(**{k: _unpack(v, arrays) for k, v in document["fields"].items()})


def _kind(name: str, module: str) -> "type[Result]":
    if name not in _KINDS and module.startswith("lensbench."):
        # Kinds register when their module is imported; only our own modules are.
        with suppress(ModuleNotFoundError):
            import_module(module)
    if name not in _KINDS:
        raise UnknownNameError("kind of result", name, known=sorted(_KINDS))
    return _KINDS[name]


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"$array": name}
    if isinstance(value, Provenance):
        return {"$provenance": value.to_dict()}
    if isinstance(value, Controls):
        return {"$controls": [_pack(dict(value.values), name, arrays), value.note]}
    if isinstance(value, Result):
        inner = {
            f.name: _pack(getattr(value, f.name), f"{name}/{f.name}", arrays) for f in fields(value)
        }
        return {"$result": value.kind, "module": type(value).__module__, "fields": inner}
    if isinstance(value, float) and not np.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return _pack(value.item(), name, arrays)
    if isinstance(value, tuple):
        return {"$tuple": [_pack(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [_pack(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(k): _pack(v, f"{name}/{k}", arrays) for k, v in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"field {name!r} holds a {type(value).__name__}, which a result cannot save")


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unpack(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$provenance" in value:
        return Provenance(**value["$provenance"])
    if "$controls" in value:
        values, note = value["$controls"]
        return Controls(_unpack(values, arrays), note)
    if "$result" in value:
        kind = _kind(value["$result"], str(value.get("module", "")))
        return kind(**{k: _unpack(v, arrays) for k, v in value["fields"].items()})
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(_unpack(v, arrays) for v in value["$tuple"])
    return {k: _unpack(v, arrays) for k, v in value.items()}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        equal_nan = a.dtype.kind in "fc" and b.dtype.kind in "fc"
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=equal_nan)
    if isinstance(a, Controls) and isinstance(b, Controls):
        return _same(dict(a.values), dict(b.values)) and a.note == b.note
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    return bool(a == b)
