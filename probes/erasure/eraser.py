"""Fitted erasers: frozen affine maps at a site, applied to rows or handed on as a plan."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.ops import Add, RankOne
from lensbench.plan import Edit, Plan
from lensbench.probes.erasure import closed
from lensbench.probes.linear.data import SHARES, ProbeData, check_finite
from lensbench.probes.linear.fitting import usable
from lensbench.probes.linear.labels import Label, some
from lensbench.results import Result
from lensbench.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

METHODS = ("leace", "orthogonal", "oracle")


@dataclass(frozen=True, kw_only=True, eq=False)
class Eraser(Result):
    """r(x) = x - (x - mean) read^T write, after which no linear probe reads the labels.

    Of ``oracle`` r(x, z) = x - (z - z_mean) write, which needs the labels and is no map of x.
    """

    method: str
    site: str
    labels: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    """Of each label in the order of their numbers; none of a number."""
    read: Float[np.ndarray, "read_rank width"]
    """None of the oracle."""
    write: Float[np.ndarray, "write_rank width"]
    mean: Float[np.ndarray, " width"]
    z_mean: Float[np.ndarray, " k"]
    cross: float
    """Largest correlation-like entry of Cov(r(x), z) on the fitted rows, see :func:`fit_eraser`."""
    moved: float
    """Mean squared change on the fitted rows, as a share of their variance."""
    n_rows: int = 0
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def rank(self) -> int:
        """Directions that are changed."""
        return len(self.write)

    def apply(
        self, x: Float[np.ndarray, "rows width"], z: Mapping[str, Any] | None = None
    ) -> Float[np.ndarray, "rows width"]:
        """Erased rows, float32. ``oracle`` needs ``z``: class numbers (or values) by label.

        Raises:
            MismatchError: another width.
            NonFiniteError: NaN or infinity.
            ConfigError: the oracle without labels.
        """
        array = np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - tensors too
        if array.ndim != 2 or array.shape[1] != len(self.mean):
            raise MismatchError(
                f"the eraser of {', '.join(self.labels)} takes rows of {len(self.mean)} numbers at "
                f"{self.site}, got {list(array.shape)}"
            )
        check_finite(array, f"the activations given to the eraser of {', '.join(self.labels)}")
        rows = array.astype(np.float64)
        if self.method != "oracle":
            return closed.ErasingMap(self.read, self.write, self.mean).apply(rows).astype("f4")
        if z is None:
            raise ConfigError("the oracle eraser needs the labels of the rows: apply(x, z={...})")
        columns = [_one_hot(z[n], c) for n, c in zip(self.labels, self.classes, strict=True)]
        return (rows - (np.concatenate(columns, 1) - self.z_mean) @ self.write).astype("f4")

    def matrix(self) -> tuple[Float[np.ndarray, "width width"], Float[np.ndarray, " width"]]:
        """A and c of r(x) = A x + c.

        Raises:
            ConfigError: the oracle, which is no map of x.
        """
        self._refuse_oracle()
        a = np.eye(len(self.mean)) - self.write.T @ self.read
        return a, self.mean - a @ self.mean

    def plan(self, positions: Sequence[int] | None = None) -> Plan:
        """The erasure as edits at its site: a ``RankOne`` per direction, and an ``Add``.

        Exact, since read and write are biorthogonal: no edit changes what the next one reads.

        Raises:
            ConfigError: the oracle, which is no map of x.
        """
        self._refuse_oracle()
        site = Site.parse(self.site)
        ops = [
            RankOne(torch.from_numpy(r).float(), torch.from_numpy(-w).float())
            for r, w in zip(self.read, self.write, strict=True)
        ]
        shift = torch.from_numpy(self.mean @ self.read.T @ self.write).float()
        return Plan(tuple(Edit(site, op, positions=positions) for op in (*ops, Add(shift))))

    def _refuse_oracle(self) -> None:
        if self.method == "oracle":
            raise ConfigError(
                "the oracle eraser needs every row's label, so it is no map of activations; use "
                "method='leace' or 'orthogonal'"
            )

    def to_frame(self) -> "pd.DataFrame":
        """One row per direction and dimension: what is read, what is taken out."""
        import pandas as pd

        k, dim = np.indices(self.write.shape)
        read = self.read if len(self.read) else np.full(self.write.shape, np.nan)
        frame = pd.DataFrame({"direction": k.ravel(), "dim": dim.ravel(),
                              "read": read.ravel(), "write": self.write.ravel()})  # fmt: skip
        frame.attrs["units"] = {"read": f"1 / unit of {self.site}", "write": f"of {self.site}"}
        return frame

    def summary(self) -> dict[str, float]:
        """Rank, what is left of the cross-covariance, and how much rows were moved."""
        return {"rank": float(self.rank), "cross": self.cross, "moved": self.moved,
                "n": float(self.n_rows)}  # fmt: skip

    def plot(self) -> "go.Figure":
        """What is taken out, by dimension."""
        from lensbench.plots import lines

        return lines(self.to_frame(), x="dim", y="write", color="direction", markers=False,
                     title=f"{self.method} eraser of {', '.join(self.labels)}",
                     subtitle=f"{self.site}, {self.n_rows:,} rows")  # fmt: skip


def fit_eraser(
    data: ProbeData,
    labels: Sequence[str] | str | None = None,
    site: str | Site | None = None,
    *,
    method: str = "leace",
    seed: int = 0,
    shares: tuple[float, float, float] = SHARES,
) -> Eraser:
    """Fit an eraser of one or more labels on the training documents.

    ``leace`` moves the rows least among affine maps of x; ``orthogonal`` takes out the span of the
    class means (of Cov(x, z)) at right angles; ``oracle`` is told each row's label. ``cross`` is
    max |Cov(r(x), z)| / (scale of x * deviation of z) on the fitted rows: 0 but for rounding.
    Source: Belrose et al. 2023, arXiv:2306.03819.

    Raises:
        UnknownNameError, UnknownSiteError: no such label, site or method.
        NotEnoughDataError: too few documents.
        ConfigError: several sites and none named; a label that does not vary on the rows.

    Example:
        >>> eraser = probes.fit_eraser(data, "is_name", "blocks.3.resid_post")
    """
    start = time.monotonic()
    if method not in METHODS:
        raise UnknownNameError("eraser", method, known=METHODS)
    columns = some(data.labels, labels)
    if not columns:
        raise ConfigError("labels needs at least one label to erase")
    if site is None and len(data.sites) > 1:
        raise ConfigError(f"say which site: {', '.join(data.sites)}")
    where = str(Site.parse(str(next(iter(data.sites)) if site is None else site)))
    split = data.split(seed, shares)
    rows = np.flatnonzero(split.train & np.logical_and.reduce([c.known for c in columns]))
    for column in columns:
        if why := usable(column, split, "ridge"):
            raise ConfigError(why)
        if len(np.unique(column.values[rows])) < 2:
            raise ConfigError(
                f"label {column.name!r} does not vary on the {len(rows):,} training rows that have "
                "all of the labels; erase them one by one"
            )
    found = from_rows(data.x(where)[rows], [column.at(rows) for column in columns], method)
    return Eraser(
        site=where, labels=tuple(c.name for c in columns), method=method, **found,
        model={k: data.model.get(k) for k in ("name", "fingerprint")},
        config={"seed": seed, "split": split.how, "positions": data.selected},
        provenance=provenance.record(
            model=dict(data.model), store=data.store, seed=seed, seconds=time.monotonic() - start
        ),
    )  # fmt: skip


def from_rows(
    x: Float[np.ndarray, "rows width"], labels: Sequence[Label], method: str
) -> dict[str, Any]:
    """Fields of an :class:`Eraser` from rows with their labels (all known)."""
    rows = x.astype(np.float64)
    z = np.concatenate([_one_hot(one.values, one.classes) for one in labels], 1)
    if method == "oracle":
        write = closed.oracle_shift(rows, z)
        read, erased = np.zeros((0, rows.shape[1])), rows - (z - z.mean(0)) @ write
    else:
        made = (closed.leace if method == "leace" else closed.orthogonal)(rows, z)
        read, write, erased = made.read, made.write, made.apply(rows)
    spread = (rows - rows.mean(0)).std() * np.maximum(z.std(0), 1e-300)
    left = (erased - erased.mean(0)).T @ (z - z.mean(0)) / len(rows) / np.maximum(spread, 1e-300)
    return {
        "read": read, "write": write, "mean": rows.mean(0), "z_mean": z.mean(0),
        "cross": float(np.abs(left).max()), "n_rows": len(rows),
        "moved": float(np.square(rows - erased).sum()
                       / max(np.square(rows - rows.mean(0)).sum(), 1e-300)),
        "classes": tuple(label.classes for label in labels),
    }  # fmt: skip


def _one_hot(values: Any, classes: tuple[str, ...]) -> Float[np.ndarray, "rows k"]:
    array = np.asarray(values)
    if not classes:
        return array.astype(np.float64)[:, None]
    return (array[:, None] == np.arange(len(classes))).astype(np.float64)
