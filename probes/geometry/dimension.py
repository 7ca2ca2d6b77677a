"""Intrinsic dimension of every layer, at several scales, beside its controls.

Steps, numbered in the body:

1. Rows of each site; equal rows left out and counted.
2. Neighbours once per site, as many as the largest scale needs.
3. Each estimator at each scale; likelihood error, and a jackknife over groups of documents, because
   tokens of one document are not independent.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import NotEnoughDataError, UnknownNameError
from lensbench.probes.geometry.clouds import Cloud, PositionName, clouds_of, distinct
from lensbench.probes.geometry.estimators import LEAST, Dimension, likelihood, regression
from lensbench.probes.geometry.nearest import neighbours
from lensbench.probes.geometry.tables import Table, columns
from lensbench.probes.site_axis import name_sites, site_places
from lensbench.results import Controls

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCALES = (1, 4, 16, 64)
REGRESSION, GRIDE = "two_nn_regression", "gride"
WHY = f"{LEAST}, where the standard error is a seventh of the dimension; 2 n1 + 2 for scale n1"
GROUPS = 20
"""Parts of the documents of which one at a time is left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntrinsicDimension(Table):
    """Dimensions by source, site, estimator and scale; every row with its n, length and scale."""

    columns_shown = ("source", "site", "estimator", "dimension", "low", "high", "error",
                     "scale", "n", "control")  # fmt: skip

    units: ClassVar[Mapping[str, str]] = {
        "dimension": "dimensions",
        "error": "dimensions",
        "n1": "neighbours",
        "scale": "mean distance to neighbour 2 n1",
        "n": "ratios",
        "length": "tokens seen",
        "jackknife": "dimensions",
    }

    def plot(self, n1: int = 1, estimator: str = GRIDE) -> "go.Figure":
        """Dimension against layer at one scale, a line per source; bands are 95 % intervals.

        Raises:
            UnknownNameError: a scale or estimator that was not measured.
        """
        from lensbench.plots import lines

        frame: Any = self.part(estimator=estimator)
        if n1 not in set(frame["n1"]):
            known = [str(n) for n in dict.fromkeys(frame["n1"])]
            raise UnknownNameError("scale n1", str(n1), known=known)
        part = frame[frame["n1"] == n1]
        figure = lines(
            part, x="order", y="dimension", color="source", low="low", high="high",
            hover_columns=("site", "scale", "length", "n_duplicates"),
            title="Intrinsic dimension", labels={"order": "site, in execution order"},
            subtitle=f"{estimator}, n1 = {n1} · n up to {part['n'].max():,} · "
            "bands: jackknife over documents",
        )  # fmt: skip
        return name_sites(figure, dict(zip(part["order"], part["site"], strict=True)))

    def plot_scale(self, site: str | None = None) -> "go.Figure":
        """Dimension against scale n1 at one site (default: the middle one), a line per source."""
        from lensbench.plots import lines

        sites = tuple(dict.fromkeys(self.text["site"]))
        chosen = sites[len(sites) // 2] if site is None else site
        frame: Any = self.part(site=chosen, estimator=GRIDE)
        return lines(
            frame, x="n1", y="dimension", color="source", low="low", high="high", log_x=True,
            hover_columns=("scale", "error", "length"), title=f"Dimension against scale, {chosen}",
            subtitle=f"GRIDE · n up to {frame['n'].max():,} · small scales see noise, a plateau is "
            "the dimension",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Smallest and largest dimension at the smallest scale, and where the peak is."""
        frame: Any = self.to_frame()
        own = frame[(frame["control"] == 0) & (frame["estimator"] == GRIDE)]
        own = own[own["n1"] == own["n1"].min()].dropna(subset=["dimension"])
        if own.empty:
            return {"max_dimension": float("nan")}
        peak = own.loc[own["dimension"].idxmax()]
        return {
            "max_dimension": float(peak["dimension"]), "at_site": float(peak["order"]),
            "min_dimension": float(own["dimension"].min()), "n": float(own["n"].max()),
        }  # fmt: skip


def intrinsic_dimension(
    source: Any,
    *,
    sites: Sequence[str] | str | None = None,
    positions: PositionName = "all",
    scales: Sequence[int] = SCALES,
    controls: Mapping[str, Any] | None = None,
    max_rows: int | None = 4000,
    seed: int = 0,
) -> IntrinsicDimension:
    """2NN (regression and maximum likelihood) and GRIDE at ``scales`` of every site.

    GRIDE at n1 = 1 is the maximum-likelihood 2NN. ``source`` is a store, several by name (models,
    checkpoints), or arrays by name; ``controls`` are more of them. All sources give as many rows,
    ``max_rows`` at most: the figure depends on n, so compare only equal ones. ``error`` is the
    likelihood's; ``low`` and ``high`` are the value -+ 1.96 jackknife errors (twenty groups of
    documents), NaN with fewer than three documents. Memory is bounded; time grows with n^2.
    Source: Facco et al. 2017; Denti et al. 2022; Razzhigaev et al. 2024, arXiv:2311.05928; Cheng et
    al. 2024, arXiv:2405.15471 (the last token of 10,000 texts: ``positions="last"``).

    Raises:
        ConfigError, MissingDataError, NonFiniteError: see ``clouds_of``.
        NotEnoughDataError: fewer than 50 distinct rows, or than 2 n1 + 2 of the largest scale.

    Example:
        >>> found = probes.intrinsic_dimension(store, sites="blocks.3.resid_post", max_rows=300)
    """
    start = time.monotonic()
    chosen = sorted({whole_number("a scale n1", n, least=1) for n in scales})
    if not chosen:
        raise UnknownNameError("scale n1", "none", known=[str(n) for n in SCALES])
    clouds = clouds_of(source, sites=sites, positions=positions, max_rows=max_rows, seed=seed,
                       controls=controls, least=_least(chosen), why=f" ({WHY})")  # fmt: skip
    places = site_places(cloud.site for cloud in clouds)
    rows = [{**row, "order": places[cloud.site]} for cloud in clouds
            for row in _measure(cloud, chosen)]  # fmt: skip
    return IntrinsicDimension(
        **columns(rows), controls=_controls(rows),
        config={"positions": positions, "scales": chosen, "max_rows": max_rows, "seed": seed},
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip


def _measure(cloud: Cloud, scales: Sequence[int]) -> list[dict[str, Any]]:
    x = cloud.x()
    kept = distinct(x)  # 1
    n, duplicates = int(kept.sum()), int((~kept).sum())
    if n < _least(scales):
        lower = "lower the scale or " if _least(scales) > LEAST else ""
        raise NotEnoughDataError(
            f"{cloud.site} of {cloud.source or 'array'} has {n} distinct rows of {len(x)}; "
            f"{_least(scales)} are needed ({WHY}): {lower}capture more text"
        )
    far = neighbours(x[kept], 2 * scales[-1])[0]  # 2
    groups = _groups(cloud.docs[kept])
    found: list[dict[str, Any]] = []
    for name, n1 in [(REGRESSION, 1), *((GRIDE, n1) for n1 in scales)]:  # 3
        whole = _estimate(name, far[:, n1 - 1], far[:, 2 * n1 - 1], n1)
        spread = _jackknife(name, far[:, n1 - 1], far[:, 2 * n1 - 1], groups, n1)
        found.append({
            "source": cloud.source, "site": cloud.site, "estimator": name, "layer": cloud.layer,
            "n1": n1, "dimension": whole.value, "low": whole.value - 1.96 * spread,
            "high": whole.value + 1.96 * spread, "error": whole.error, "jackknife": spread,
            "n": whole.n, "n_duplicates": duplicates, "n_repeated": cloud.n_repeated,
            "n_documents": len(np.unique(cloud.docs[kept])), "scale": whole.scale,
            "length": cloud.length, "width": x.shape[1], "control": float(cloud.control),
        })  # fmt: skip
    return found


def _least(scales: Sequence[int]) -> int:
    """Rows: enough for an estimate at all, and for the neighbours of the largest scale."""
    return max(LEAST, 2 * scales[-1] + 2)


def _estimate(name: str, near: np.ndarray, far: np.ndarray, n1: int) -> Dimension:
    return regression(near, far) if name == REGRESSION else likelihood(near, far, n1)


def _groups(docs: np.ndarray) -> np.ndarray:
    """Documents dealt to at most twenty groups, in the order they were drawn."""
    return np.unique(docs, return_inverse=True)[1] % GROUPS


def _jackknife(name: str, near: np.ndarray, far: np.ndarray, groups: np.ndarray, n1: int) -> float:
    """sqrt((g - 1) / g sum (d_(-i) - mean)^2) over groups whose rows are left out one at a time.

    The rows left keep their neighbours: looking them up anew would move the ratios of every row
    that lost one, and more than double the error of independent rows.
    """
    found = np.unique(groups)
    g = len(found)
    if g < 3:
        return float("nan")
    left = [groups != group for group in found]
    values = np.array([_estimate(name, near[keep], far[keep], n1).value for keep in left])
    return float(np.sqrt((g - 1) / g * np.sum((values - values.mean()) ** 2)))


def _controls(rows: Sequence[Mapping[str, Any]]) -> Controls:
    first = min(row["n1"] for row in rows)
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["control"] and row["estimator"] == GRIDE and row["n1"] == first:
            found.setdefault(str(row["source"]), []).append(float(row["dimension"]))
    return Controls({name: float(np.max(v)) for name, v in found.items()},
                    f"largest dimension over sites at n1 = {first}")  # fmt: skip
