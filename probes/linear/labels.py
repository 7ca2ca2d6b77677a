"""Label columns: what each row is said to be, checked before anything is fitted.

Kinds: ``binary`` and ``multiclass`` (class numbers), ``numeric`` (values), ``rank`` (the order of
values, without ties). A multi-label table ``[rows, m]`` of truth values is m binary columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from jaxtyping import Bool, Int, Shaped

from lensbench.errors import ConfigError, MismatchError, NotEnoughDataError, UnknownNameError

Kind: TypeAlias = Literal["binary", "multiclass", "numeric", "rank"]
KINDS: tuple[Kind, ...] = ("binary", "multiclass", "numeric", "rank")
MISSING = -1
"""Class number of a row without a label; of numeric labels NaN."""
_MOST_CLASSES = 64
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Label:
    """One column: class numbers (int64, -1 unlabelled) or values (float64, NaN unlabelled)."""

    name: str
    kind: Kind
    values: Shaped[np.ndarray, " rows"]
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers; none of a number."""

    @property
    def numeric(self) -> bool:
        """Whether it is a number to predict, not a class."""
        return self.kind in ("numeric", "rank")

    @property
    def known(self) -> Bool[np.ndarray, " rows"]:
        """Rows that have a label."""
        return np.isfinite(self.values) if self.numeric else self.values != MISSING

    def at(self, rows: Any) -> "Label":
        """The same column on some of the rows."""
        return replace(self, values=self.values[rows])

    def check(self, least: int) -> None:
        """Refuse a column that nothing can be learned from.

        Raises:
            ConfigError: one value only.
            NotEnoughDataError: a class with fewer than ``least`` rows, or fewer rows than that.
        """
        values = self.values[self.known]
        if len(np.unique(values)) < 2:
            what = self._called(values[0]) if len(values) else "nothing"
            raise ConfigError(
                f"label {self.name!r} is constant on the {len(values):,} rows chosen ({what}); "
                "choose other rows (positions=...) or leave it out"
            )
        counts = [len(values)] if self.numeric else np.bincount(values, minlength=len(self.classes))
        names = ["rows"] if self.numeric else list(self.classes)
        few = [f"{c} of {n}" for n, c in zip(names, counts, strict=True) if c < least]
        if few:
            shown = ", ".join(few[:_NAMED])
            raise NotEnoughDataError(
                f"label {self.name!r} has classes with fewer than {least} rows ({shown}); capture "
                "more text, join classes, or lower min_per_class"
            )

    def _called(self, value: Any) -> str:
        return str(value) if self.numeric else self.classes[int(value)]


def read_labels(
    table: Mapping[str, Any],
    n_rows: int,
    documents: Int[np.ndarray, " rows"],
    kinds: Mapping[str, Kind] | None = None,
) -> tuple[Label, ...]:
    """Columns of a mapping (or a frame) with one value per row, or one per document.

    ``documents`` numbers each row's document 0, 1, ...; ``kinds`` overrides what the values look
    like: truth values and two values are ``binary``, texts and few whole numbers ``multiclass``,
    other numbers ``numeric``. None and NaN are rows without a label.

    Raises:
        ConfigError: no column, or a kind its values cannot be.
        MismatchError: neither a value per row nor one per document.
        UnknownNameError: ``kinds`` names a column or kind that there is not.
    """
    named: Any = table
    if not hasattr(named, "keys"):
        raise ConfigError(f"labels must be a mapping or a frame, got {type(named).__name__}")
    columns = {str(name): table[name] for name in table}
    if not columns:
        raise ConfigError("labels must map at least one name to a value per row, got none")
    for name, kind in (kinds or {}).items():
        if name not in columns:
            raise UnknownNameError("label", name, known=tuple(columns))
        if kind not in KINDS:
            raise UnknownNameError("kind of label", kind, known=KINDS)
    found: list[Label] = []
    for name, column in columns.items():
        values = _per_row(name, column, n_rows, documents)
        kind = (kinds or {}).get(name)
        parts = {name: values} if values.ndim == 1 else _multi_label(name, values, n_rows)
        found += [_column(part, v, kind) for part, v in parts.items()]
    return tuple(found)


def some(labels: Sequence[Label], names: Sequence[str] | str | None) -> tuple[Label, ...]:
    """The labels of these names (all without).

    Raises:
        UnknownNameError: one that there is not; offers the nearest.
    """
    if names is None:
        return tuple(labels)
    known = {label.name: label for label in labels}
    for name in (wanted := [names] if isinstance(names, str) else list(names)):
        if name not in known:
            raise UnknownNameError("label", str(name), known=tuple(known))
    return tuple(known[name] for name in wanted)


def _per_row(name: str, column: Any, n: int, documents: Int[np.ndarray, " rows"]) -> np.ndarray:
    try:
        values = np.asarray(column.detach().cpu() if hasattr(column, "detach") else column)
    except ValueError as error:
        raise ConfigError(
            f"label {name!r} has rows of several lengths; give one value each"
        ) from error
    n_docs = int(documents.max()) + 1 if len(documents) else 0
    if values.ndim in (1, 2) and len(values) == n:
        return values
    if values.ndim in (1, 2) and len(values) == n_docs:
        return values[documents]
    raise MismatchError(
        f"label {name!r} has shape {list(values.shape)}; it needs one value for each of the "
        f"{n:,} rows, or for each of the {n_docs:,} documents, in the order of the data"
    )


def _multi_label(name: str, values: np.ndarray, n: int) -> dict[str, np.ndarray]:
    if not np.isin(values, (0, 1)).all():
        raise ConfigError(
            f"label {name!r} has shape [{n}, {values.shape[1]}], which is read as several "
            "yes-or-no labels; its values must be truth values"
        )
    return {f"{name}[{j}]": values[:, j].astype(bool) for j in range(values.shape[1])}


def _column(name: str, values: np.ndarray, kind: Kind | None) -> Label:
    if values.dtype.kind in "fiu":
        known = np.isfinite(values.astype(np.float64))
    elif values.dtype.kind in "bUS":  # truth values and texts are all there
        known = np.ones(len(values), bool)
    else:
        known = np.array([_given(v) for v in values], bool)
    try:
        classes = np.unique(values[known]) if known.any() else values[:0]
    except TypeError as error:
        kinds = sorted({type(v).__name__ for v in values[known]})
        raise ConfigError(f"label {name!r} mixes {' and '.join(kinds)}; use one of them") from error
    kind = kind or _kind(values, classes)
    if kind in ("numeric", "rank"):
        return Label(name, kind, _numbers(name, values, known, kind))
    if kind == "binary" and len(classes) > 2:
        raise ConfigError(f"label {name!r} has {len(classes)} values; a binary label has two")
    numbers = np.full(len(values), MISSING, np.int64)
    numbers[known] = np.searchsorted(classes, values[known])
    if kind == "binary" and len(classes) == 1 and set(classes.tolist()) <= {0, 1}:
        classes, numbers[known] = np.array([False, True]), int(classes[0])
    return Label(name, kind, numbers, tuple(str(c) for c in classes.tolist()))


def _given(value: Any) -> bool:
    try:
        return value is not None and bool(value == value)
    except TypeError:  # pandas' NA, which is neither equal to itself nor not
        return False


def _kind(values: np.ndarray, classes: np.ndarray) -> Kind:
    if values.dtype.kind == "b" or len(classes) <= 2:
        return "binary"
    whole = values.dtype.kind in "iu" and len(classes) <= _MOST_CLASSES
    return "numeric" if values.dtype.kind in "fiu" and not whole else "multiclass"


def _numbers(name: str, values: np.ndarray, known: np.ndarray, kind: Kind) -> np.ndarray:
    try:
        numbers = np.where(known, values, np.nan).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"label {name!r} is {kind}, but its values are no numbers") from error
    if kind == "rank":
        found, counts = np.unique(numbers[known], return_counts=True)
        if (counts > 1).any():
            raise ConfigError(
                f"label {name!r} has no ranking: {int((counts > 1).sum())} values occur more than "
                f"once, e.g. {found[counts > 1][:3].tolist()}. Use kind 'numeric', or one row "
                "for each"
            )
        numbers[known] = np.searchsorted(found, numbers[known]) / max(len(found) - 1, 1)
    return cast(np.ndarray, numbers)
