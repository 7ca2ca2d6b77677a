"""What a probe is fitted on: rows of activations, their labels, documents and splits.

Rows stand in memory (:meth:`ProbeData.from_arrays`) or in a store (:func:`probe_data`), from which
the rows of a site are read once, when they are asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, NonFiniteError, UnknownSiteError
from lensbench.probes.linear.labels import Kind, Label, read_labels, some
from lensbench.probes.linear.splits import Split, deal, given, units_of
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.store import ActivationStore

SHARES = (0.6, 0.2, 0.2)
"""Of documents: train, validation, test."""
LEAST = 10
"""Rows that every class needs."""
Columns = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Labelled rows of one or more sites, in the order of the text.

    Example:
        >>> data.label("is_name").classes
        ('False', 'True')
        >>> data.x("blocks.3.resid_post").shape[1]
        128
    """

    sites: tuple[str, ...]
    labels: tuple[Label, ...]
    docs: Int[np.ndarray, " rows"]
    """Document of each row, 0, 1, ..."""
    tokens: Int[np.ndarray, " rows"]
    """Id of the token each row belongs to; -1 where it is not known."""
    places: Int[np.ndarray, " rows"]
    """Place in the document."""
    units: Int[np.ndarray, " rows"]
    """What splits deal out: documents, or documents joined by groups."""
    read: Callable[[str], np.ndarray]
    """Rows of a site, float ``[rows, width]``."""
    unit_name: str = "documents"
    parts: Split | None = None
    """A split given by the user; else every seed deals its own."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Name and fingerprint of the model the rows are of."""
    store: str = ""
    """Fingerprint of the store the rows are of; empty of arrays."""
    rows: Int[np.ndarray, " rows"] | None = None
    """Their numbers in the store; none of arrays."""
    selected: str = "all"
    """In words: which rows of a text these are."""
    marks: Mapping[str, Bool[np.ndarray, " rows"]] = field(default_factory=dict[str, Any])
    """Rows of each position that they were chosen by."""
    least: int = LEAST
    """Rows that every class needs."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels of a corpus that cannot be probed on these rows, and why."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.docs)

    def __repr__(self) -> str:
        """One line: rows, documents, sites and labels."""
        names = ", ".join(label.name for label in self.labels[:4])
        more = f" and {len(self.labels) - 4} more" * (len(self.labels) > 4)
        return (f"ProbeData({len(self):,} rows of {self.n_docs:,} documents, "
                f"{len(self.sites)} sites; labels: {names}{more})")  # fmt: skip

    def _repr_html_(self) -> str:
        """For notebooks: a row per label, with the rows of its classes."""
        from lensbench.plots.tables import html_table, safe

        told = f"{self!r}; rows: {self.selected}"
        return f"<div>{safe(told)}</div>{html_table(self.to_frame())}"

    def to_frame(self) -> "pd.DataFrame":
        """One row per label: its kind, its classes with their rows, and rows that have it."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for label in self.labels:
            count = np.bincount(label.values[label.values >= 0]) if label.classes else ()
            told = [f"{name} {n:,}" for name, n in zip(label.classes, count, strict=False)]
            rows.append({"label": label.name, "kind": label.kind, "classes": ", ".join(told),
                         "n": int(np.isfinite(label.values).sum()) if not label.classes
                         else int((label.values >= 0).sum())})  # fmt: skip
        frame = pd.DataFrame(rows, columns=["label", "kind", "classes", "n"])
        frame.attrs["units"] = {"classes": "rows", "n": "labelled rows"}
        return frame

    @property
    def n_docs(self) -> int:
        """Number of documents."""
        return len(np.unique(self.docs))

    def label(self, name: str) -> Label:
        """One column by name.

        Raises:
            UnknownNameError: no such label; offers the nearest.
        """
        return some(self.labels, name)[0]

    def x(self, site: str | Site) -> Float[np.ndarray, "rows width"]:
        """Activations of a site, float32; reads them again at every call.

        Raises:
            UnknownSiteError: a site that these data do not have.
            NonFiniteError: NaN or infinity.
            MismatchError: another number of rows than there are labels.
        """
        name = str(site)
        if name not in self.sites:
            name = str(Site.parse(name))
        if name not in self.sites:
            raise UnknownSiteError(name, known=self.sites)
        found = np.asarray(self.read(name), np.float32)
        if found.ndim != 2 or len(found) != len(self):
            raise MismatchError(
                f"{name} has activations of shape {list(found.shape)}; {len(self):,} rows of one "
                "vector each were expected"
            )
        check_finite(found, name)
        return found

    def split(self, seed: int = 0, shares: tuple[float, float, float] = SHARES) -> Split:
        """Train, validation and test rows by document (or group); every seed deals anew."""
        return self.parts or deal(self.units, shares, seed, self.unit_name)

    def with_labels(self, labels: Sequence[Label]) -> "ProbeData":
        """The same rows under other columns (a control)."""
        return replace(self, labels=tuple(labels))

    def taking(self, rows: Any) -> "ProbeData":
        """Some of the rows, by number or mask."""
        at = np.arange(len(self))[rows]
        return replace(
            self, labels=tuple(label.at(at) for label in self.labels), docs=self.docs[at],
            tokens=self.tokens[at], places=self.places[at], units=self.units[at],
            read=lambda site: self.read(site)[at],
            rows=None if self.rows is None else self.rows[at],
            marks={name: mask[at] for name, mask in self.marks.items()},
            parts=self.parts and Split(self.parts.part[at], self.parts.how),
        )  # fmt: skip

    @classmethod
    def from_arrays(
        cls,
        x: Mapping[str, Any] | Any,
        labels: Columns,
        *,
        docs: Any = None,
        tokens: Any = None,
        groups: Any = None,
        split: Any = None,
        site: str = "blocks.0.resid_post",
        kinds: Mapping[str, Kind] | None = None,
        model: Mapping[str, Any] | None = None,
        min_per_class: int = LEAST,
    ) -> "ProbeData":
        """Data from activations in memory: one array ``[rows, width]``, or one per site.

        Without ``docs`` every row is a document of its own. ``groups`` (entities, say) and
        ``split`` are one value per row.

        Raises:
            ConfigError, MismatchError, NotEnoughDataError: as :func:`probe_data`.
        """
        arrays = x if isinstance(x, Mapping) else {site: x}
        values = {str(Site.parse(k)): _array(v, k) for k, v in arrays.items()}
        n = len(next(iter(values.values())))
        raw = np.arange(n) if docs is None else np.asarray(docs)
        if raw.shape != (n,):
            raise MismatchError(f"docs has shape {list(raw.shape)}; there are {n:,} rows")
        number = np.unique(raw, return_inverse=True)[1]
        units, what = units_of(number, _checked("groups", groups, n))
        found = read_labels(labels, n, number, kinds)
        least = whole_number("min_per_class", min_per_class, least=1)
        for label in found:
            label.check(least)
        ids = np.full(n, -1) if tokens is None else np.asarray(_checked("tokens", tokens, n))
        return cls(
            sites=tuple(values), labels=found, docs=number, tokens=ids, places=_counted(number),
            units=units, read=values.__getitem__, unit_name=what,
            parts=None if split is None else given(split, units), model=dict(model or {}),
            least=least,
        )  # fmt: skip


def probe_data(
    store: "ActivationStore",
    labels: Any = None,
    *,
    sites: Sequence[str] | str | None = None,
    names: Sequence[str] | str | None = None,
    positions: Any = "all",
    groups: Any = None,
    split: Any = None,
    kinds: Mapping[str, Kind] | None = None,
    max_rows: int = 50_000,
    min_per_class: int = LEAST,
    seed: int = 0,
) -> ProbeData:
    """Rows of a store joined with labels.

    Args:
        store: activations of a text.
        labels: a value for every stored row or for every document, by name (a mapping or a frame);
            a corpus; or None: those of the corpus that the store's text names.
        sites: which; default: all that hold one vector per token.
        names: which labels; default: all, of a corpus only those that can be probed.
        positions: ``all``; ``first`` or ``last`` stored token of each document; places in the
            document, negative ones from its end; the name of a yes-or-no label that marks a role;
            several of these (their rows together; a sweep can tell them apart); or a mask with one
            truth value per stored row.
        groups: one value per stored row or document, or the name of a label; rows of one group are
            never on two sides of a split.
        split: ``train``, ``validation`` or ``test`` per stored row; else each seed deals documents.
        kinds: overrides the kind of a label, see :mod:`~lensbench.probes.linear.labels`.
        max_rows: whole documents are drawn until this many rows are reached.
        min_per_class: rows that each class needs.
        seed: of that draw.

    Raises:
        ConfigError: no row chosen, or a label that is constant on the rows.
        UnknownNameError: a label or position that there is not.
        MismatchError: labels of another text, or of another length.
        MissingDataError: a site that the store has not.
        NotEnoughDataError: a class with fewer than ``min_per_class`` rows.

    Example:
        >>> labels = {"name": documents.labels["is_name"]}  # a truth value per token of the text
        >>> data = probes.probe_data(store, labels, sites=["blocks.3.resid_post"])
    """
    from lensbench.probes.linear.rows import assemble

    return assemble(
        store, labels, sites, names, positions, groups, split, kinds,
        whole_number("max_rows", max_rows, least=1),
        whole_number("min_per_class", min_per_class, least=1), seed,
    )  # fmt: skip


def check_finite(x: Float[np.ndarray, "rows width"], what: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteError: says how many rows, and which is the first.
    """
    if not np.isfinite(x).all():
        bad = np.flatnonzero(~np.isfinite(x).all(1))
        raise NonFiniteError(
            f"{len(bad):,} of {len(x):,} rows of {what} are not finite, first row {bad[0]}; "
            "capture in float32 or bfloat16 if the model overflows float16, or leave them out"
        )


def _array(value: Any, site: str) -> np.ndarray:
    array = np.asarray(value.detach().float().cpu() if hasattr(value, "detach") else value)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise ConfigError(
            f"activations of {site} must be numbers [rows, width], got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    return array


def _checked(name: str, values: Any, n: int) -> Any:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (n,):
        raise MismatchError(f"{name} has shape {list(array.shape)}; there are {n:,} rows")
    return array


def _counted(docs: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Place of each row among those of its document."""
    order = np.argsort(docs, kind="stable")
    starts = np.r_[True, np.diff(docs[order]) != 0]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(docs)), 0))
    out = np.empty(len(docs), np.int64)
    out[order] = np.arange(len(docs)) - first
    return out
