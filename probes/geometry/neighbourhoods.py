"""Whose neighbours are whose: information imbalance and overlap between layers and models.

Steps, numbered in the body:

1. One set of rows for all spaces: the same tokens (or, at ``last``, the same documents), without
   those that equal another row in any of them.
2. Neighbours of every row in every space, once.
3. In each space B: the rank of the row that is nearest in A, for every A.
4. Shares of common neighbours.
5. The same with the rows of A dealt anew: what unrelated spaces give.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import MismatchError, NotEnoughDataError, UnknownNameError
from lensbench.probes.geometry.clouds import Cloud, PositionName, as_points, clouds_of, distinct
from lensbench.probes.geometry.nearest import blocks, neighbours
from lensbench.probes.geometry.tables import clustered_error
from lensbench.probes.site_axis import name_sites, short_sites, site_places
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MEASURES = {"imbalance": "0 (B follows from A) to about 1", "overlap": "share of k neighbours"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbourhoods(Result):
    """Every space against every other; entry [a, b] of ``imbalance`` is Delta(a -> b)."""

    sources: tuple[str, ...]
    sites: tuple[str, ...]
    imbalance: Float[np.ndarray, "spaces spaces"]
    imbalance_error: Float[np.ndarray, "spaces spaces"]
    imbalance_shuffled: Float[np.ndarray, "spaces spaces"]
    overlap: Float[np.ndarray, "spaces spaces"]
    overlap_error: Float[np.ndarray, "spaces spaces"]
    overlap_shuffled: Float[np.ndarray, "spaces spaces"]
    is_control: tuple[bool, ...]
    k: int
    n: int
    n_duplicates: int
    length: float
    """Mean number of tokens that a row's state has seen; NaN of arrays."""

    @property
    def chance_overlap(self) -> float:
        """K / (n - 1): expected overlap of unrelated spaces."""
        return self.k / (self.n - 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Spaces in words: the source where there are several, and the site."""
        several = len(set(self.sources)) > 1
        pairs = zip(self.sources, self.sites, strict=True)
        return tuple(f"{source} {site}" if several else site for source, site in pairs)

    def to_frame(self) -> "pd.DataFrame":
        """One row per ordered pair of spaces."""
        import pandas as pd

        a, b = (i.ravel() for i in np.indices(self.imbalance.shape))
        columns: dict[str, Any] = {
            "a": a, "b": b, "source_a": [self.sources[i] for i in a],
            "site_a": [self.sites[i] for i in a], "source_b": [self.sources[i] for i in b],
            "site_b": [self.sites[i] for i in b],
        }  # fmt: skip
        for name in MEASURES:
            value, error = getattr(self, name).ravel(), getattr(self, f"{name}_error").ravel()
            columns |= {name: value, f"{name}_low": value - 1.96 * error,
                        f"{name}_high": value + 1.96 * error,
                        f"{name}_shuffled": getattr(self, f"{name}_shuffled").ravel()}  # fmt: skip
        columns |= {"control": [self.is_control[i] or self.is_control[j]
                                for i, j in zip(a, b, strict=True)], "n": self.n}  # fmt: skip
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {**MEASURES, "n": "rows"}
        return frame

    def plot(self, measure: str = "imbalance") -> "go.Figure":
        """Matrix of spaces; what is not symmetric says which space holds more.

        Raises:
            UnknownNameError: another measure.
        """
        from lensbench.plots import heatmap
        from lensbench.probes.circuits.panels import label_cells

        _check(measure)
        words = {"imbalance": "Information imbalance from row to column",
                 "overlap": "Neighbourhood overlap"}  # fmt: skip
        short, what = short_sites(self.sites)
        several = len(set(self.sources)) > 1
        names = [f"{source} {site}" if several else site
                 for source, site in zip(self.sources, short, strict=True)]  # fmt: skip
        figure = heatmap(
            self.to_frame(), x="b", y="a", value=measure, span=(0.0, 1.0), title=words[measure],
            hover_columns=("source_a", "site_a", "source_b", "site_b", f"{measure}_shuffled"),
            subtitle=f"n = {self.n:,} rows, k = {1 if measure == 'imbalance' else self.k} · "
            f"unrelated spaces: {1.0 if measure == 'imbalance' else self.chance_overlap:.3f}",
            labels={"a": f"from {what}".strip(), "b": f"to {what}".strip()},
            height=max(360, 160 + 28 * len(names)) + 7 * max(map(len, names)),
        )  # fmt: skip
        ticks = dict(enumerate(names))
        return label_cells(figure, ticks, ticks)

    def plot_overlap(self) -> "go.Figure":
        """Overlap of each site with the one before it, a line per source, and the shuffled rows."""
        import pandas as pd

        from lensbench.plots import lines

        frame: Any = self.to_frame()
        part = frame[(frame["b"] == frame["a"] + 1) & (frame["source_a"] == frame["source_b"])]
        places = site_places(frame["site_b"])
        part = part.assign(order=part["site_b"].map(places), source=part["source_b"])
        shuffled = part.assign(source=part["source"] + " (shuffled rows)",
                               overlap=part["overlap_shuffled"], overlap_low=np.nan,
                               overlap_high=np.nan)  # fmt: skip
        both: Any = pd.concat([part, shuffled])
        both.attrs["units"] = frame.attrs["units"]
        figure = lines(
            both, x="order", y="overlap", color="source", low="overlap_low", high="overlap_high",
            hover_columns=("site_a", "site_b"), title="Neighbours kept from one site to the next",
            subtitle=f"n = {self.n:,} rows, k = {self.k}, chance {self.chance_overlap:.3f}",
            labels={"order": "to site, in execution order"},
        )  # fmt: skip
        return name_sites(figure, dict(zip(part["order"], part["site_b"], strict=True)))

    def summary(self) -> dict[str, float]:
        """Mean over distinct spaces that are no control, and chance."""
        own = ~np.array(self.is_control)
        pairs = own[:, None] & own & ~np.eye(len(own), dtype=bool)
        mean = lambda m: float(m[pairs].mean()) if pairs.any() else float("nan")  # noqa: E731
        return {
            "spaces": float(own.sum()), "mean_imbalance": mean(self.imbalance),
            "mean_overlap": mean(self.overlap), "chance_overlap": self.chance_overlap,
            "n": float(self.n),
        }  # fmt: skip


def information_imbalance(a: Any, b: Any) -> tuple[float, float]:
    """Delta(A -> B) and Delta(B -> A) of the same rows in two spaces.

    Delta(A -> B) = 2 / n times the mean rank, in B, of each row's nearest neighbour in A. 2 / n
    where A's neighbours are B's, about 1 where A says nothing of B.
    Source: Glielmo et al. 2022.

    Raises:
        ConfigError, NonFiniteError: no matrices of finite numbers with as many rows.
        NotEnoughDataError: too few rows.

    Example:
        >>> there, back = probes.information_imbalance(x[:200], x[:200] ** 3)
    """
    found = neighbourhoods({"a": as_points(a, "a"), "b": as_points(b, "b")}, k=1, max_rows=None)
    return float(found.imbalance[0, 1]), float(found.imbalance[1, 0])


def neighbourhoods(
    source: Any,
    *,
    sites: Sequence[str] | str | None = None,
    positions: PositionName = "all",
    controls: Mapping[str, Any] | None = None,
    k: int = 30,
    max_rows: int | None = 2000,
    seed: int = 0,
) -> Neighbourhoods:
    """Information imbalance and neighbourhood overlap of every pair of spaces.

    A space is one site of one source; ``source`` is a store, several by name (models, checkpoints)
    of one text, or arrays by name, and ``controls`` more of them. Overlap is the share of a row's k
    neighbours that are the same in both, by chance k / (n - 1). Intervals are 1.96 standard errors
    clustered by document. All spaces are in memory: 8 n width bytes each.
    Source: Glielmo et al. 2022; Doimo et al. 2020; Cheng et al. 2024, arXiv:2405.15471 (k = 30).

    Raises:
        MismatchError: sources of other tokens; models of several tokenizers go by
            ``positions="last"``, where rows are documents.
        NotEnoughDataError: fewer than k + 2 rows that differ in every space.
        ConfigError, MissingDataError, NonFiniteError: see ``clouds_of``.

    Example:
        >>> found = probes.neighbourhoods(store, sites="blocks.3.resid_post", k=5, max_rows=200)
    """
    start = time.monotonic()
    k = whole_number("k", k, least=1)
    clouds = clouds_of(source, sites=sites, positions=positions, max_rows=max_rows, seed=seed,
                       controls=controls, least=k + 2, paired=True)  # fmt: skip
    _same_rows(clouds, positions)
    points = [cloud.x() for cloud in clouds]
    kept = np.logical_and.reduce([distinct(x) for x in points])  # 1
    if kept.sum() < k + 2:
        raise NotEnoughDataError(
            f"{int(kept.sum())} of {len(kept)} rows differ in every space; k = {k} needs {k + 2}. "
            "Leave out sites that cannot tell rows apart, or capture more text"
        )
    points = [x[kept] - x[kept].mean(0) for x in points]
    docs = clouds[0].docs[kept]
    near = [neighbours(x, k)[1] for x in points]  # 2
    order = np.random.default_rng(seed + 1).permutation(len(docs))
    dealt = [_dealt(found, order) for found in near]  # 5
    ranks, errors, random_ranks = _imbalances(points, near, dealt, docs)
    shared, shared_error, random_shared = _overlaps(near, dealt, docs)
    return Neighbourhoods(
        sources=tuple(c.source for c in clouds), sites=tuple(c.site for c in clouds),
        imbalance=ranks, imbalance_error=errors, imbalance_shuffled=random_ranks,
        overlap=shared, overlap_error=shared_error, overlap_shuffled=random_shared,
        is_control=tuple(c.control for c in clouds), k=k, n=len(docs),
        n_duplicates=int((~kept).sum()), length=clouds[0].length,
        config={"positions": positions, "max_rows": max_rows, "seed": seed},
        controls=Controls({"shuffled_rows_imbalance": float(random_ranks.mean()),
                           "shuffled_rows_overlap": float(random_shared.mean())},
                          "mean over all pairs, rows of one side dealt anew"),
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip


def _check(measure: str) -> None:
    if measure not in MEASURES:
        raise UnknownNameError("measure", measure, known=tuple(MEASURES))


def _same_rows(clouds: Sequence[Cloud], positions: PositionName) -> None:
    first = clouds[0]
    for other in clouds[1:]:
        same = len(first.docs) == len(other.docs)
        if not other.control:
            same = np.array_equal(first.docs, other.docs)
        if same and positions != "last" and first.tokens is not None and not other.control:
            same = (other.tokens is not None and np.array_equal(first.tokens, other.tokens)
                    and np.array_equal(first.positions, other.positions))  # fmt: skip
        if not same:
            raise MismatchError(
                f"the rows of {first.source or 'array'} and {other.source or 'array'} are not the "
                "same tokens; capture both from one text with the same settings, or, with two "
                'tokenizers, compare documents: positions="last"'
            )


def _dealt(near: Int[np.ndarray, "rows k"], order: Int[np.ndarray, " rows"]) -> np.ndarray:
    """Neighbours after the rows of a space were dealt anew: row i now lies where order[i] was."""
    return np.argsort(order)[near[order]]


def _imbalances(
    points: Sequence[np.ndarray],
    near: Sequence[np.ndarray],
    dealt: Sequence[np.ndarray],
    docs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Delta [from, to], its clustered error, and Delta of dealt rows (3)."""
    s, n = len(points), len(docs)
    ranks, random = np.empty((s, s, n)), np.empty((s, s, n))
    for b, x in enumerate(points):
        for rows, square in blocks(x):
            line = np.sort(square, axis=1)
            for a in range(s):
                for table, first in ((ranks, near[a]), (random, dealt[a])):
                    at = np.take_along_axis(square, first[rows][:, :1], 1)
                    table[a, b, rows] = _ranks(line, at)
    error = [[clustered_error(ranks[a, b], docs) for b in range(s)] for a in range(s)]
    return 2 / n * ranks.mean(2), 2 / n * np.array(error), 2 / n * random.mean(2)


def _ranks(line: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Place of each value in its sorted line, counted from 1."""
    pairs = zip(line, at[:, 0], strict=True)
    return np.array([np.searchsorted(row, value) for row, value in pairs]) + 1


def _overlaps(
    near: Sequence[np.ndarray], dealt: Sequence[np.ndarray], docs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of common neighbours, its clustered error, and that of dealt rows (4)."""
    s, k = len(near), near[0].shape[1]
    value, error, random = np.empty((s, s)), np.empty((s, s)), np.empty((s, s))
    for a in range(s):
        for b in range(s):
            shares = _common(near[a], near[b]) / k
            value[a, b], error[a, b] = shares.mean(), clustered_error(shares, docs)
            random[a, b] = (_common(dealt[a], near[b]) / k).mean()
    return value, error, random


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many numbers two rows have in common; none occurs twice in a row."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)
    return (both[:, 1:] == both[:, :-1]).sum(1)
