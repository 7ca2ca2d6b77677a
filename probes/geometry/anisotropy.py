"""Anisotropy: the share of the variance that lies along one direction, and what makes it so.

Steps, numbered in the body:

1. Mean and covariance of a site's rows, a block at a time, float64.
2. A = largest eigenvalue over the sum of all (the trace).
3. The same without the first token of each sequence, and without rows of massive norm: a few rows
   of shared, huge activations are enough to bring A near 1 in an otherwise round cloud.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from lensbench import provenance
from lensbench.probes.geometry.clouds import Cloud, as_points, clouds_of
from lensbench.probes.geometry.tables import Table, columns
from lensbench.probes.site_axis import name_sites, site_places
from lensbench.results import Controls
from lensbench.stats import told

if TYPE_CHECKING:
    import plotly.graph_objects as go

MASSIVE = 5.0
"""A row is massive whose norm is above this many medians of the site's norms."""
SHIFT = 0.05
"""A difference in anisotropy that massive rows must make to be warned of."""
ROWS = ("all", "without_first", "without_massive")


@dataclass(frozen=True, kw_only=True, eq=False)
class Anisotropy(Table):
    """Anisotropy by source, site and which rows were kept."""

    units: ClassVar[Mapping[str, str]] = {
        "anisotropy": "0 to 1",
        "isotropic": "0 to 1",
        "n": "rows",
        "largest_norm": "medians of the norm",
    }
    warnings: tuple[str, ...] = ()
    """Sites whose figure is made by massive activations."""

    def plot(self, source: str | None = None) -> "go.Figure":
        """By site: rows kept as lines (of one source), or all sources without the first token.

        Beside them stands what as many rows without a preferred direction would have.
        """
        import pandas as pd

        from lensbench.plots import lines

        frame: Any = self.part(source=source) if source else self.part(rows=ROWS[1])
        color = "rows" if source else "source"
        warned = (
            f"{len(self.warnings)} sites are dominated by massive rows" if self.warnings else ""
        )
        which = f"of {source}" if source else "without the first token"
        chance = frame.drop_duplicates("order")
        chance = chance.assign(**{color: "if isotropic", "anisotropy": chance["isotropic"]})
        both: Any = pd.concat([frame, chance])
        both.attrs["units"] = self.units
        figure = lines(
            both, x="order", y="anisotropy", color=color, hover_columns=("site",),
            title="Anisotropy", labels={"order": "site, in execution order"},
            subtitle=" · ".join(t for t in (which, f"n up to {frame['n'].max():,}", warned) if t),
        )  # fmt: skip
        return name_sites(figure, dict(zip(frame["order"], frame["site"], strict=True)))

    def summary(self) -> dict[str, float]:
        """Largest and mean anisotropy of what is no control, with and without the first token.

        Both are NaN where a site has none (all its rows are equal); then ``_undefined`` counts
        those sites and ``_defined`` is the figure of the others.
        """
        frame: Any = self.to_frame()
        own = frame[frame["control"] == 0]
        found: dict[str, float] = {}
        for rows in ROWS:
            values = own.loc[own["rows"] == rows, "anisotropy"].to_numpy()
            found |= told(f"mean_{rows}", values) | told(f"max_{rows}", values, np.max)
        return {**found, "warnings": float(len(self.warnings))}


def anisotropy_of(x: Any) -> float:
    """sigma_1^2 / sum_i sigma_i^2 of the centred rows.

    Unitless, 1 / width (all directions alike, many rows) to 1 (a line). NaN where all rows are
    equal. Source: Razzhigaev et al. 2024, arXiv:2311.05928.

    Raises:
        ConfigError, NonFiniteError: no matrix of finite numbers.

    Example:
        >>> probes.anisotropy_of(x) < 1
        True
    """
    points = as_points(x)
    return _share(points, np.ones(len(points), bool))


def anisotropy(
    source: Any,
    *,
    sites: Sequence[str] | str | None = None,
    controls: Mapping[str, Any] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Anisotropy:
    """Anisotropy of every site, with and without the first token and rows of massive norm.

    ``source`` is a store, several by name (models or checkpoints,
    :func:`~lensbench.probes.geometry.stores.checkpoint_stores`), or arrays by name; ``controls``
    are more of them (:func:`~lensbench.probes.geometry.stores.control_stores`). ``sites`` default
    to the residual stream after every block. ``isotropic`` is what a round cloud of as many rows
    would give: (1 + sqrt(width / n))^2 / width. A warning names sites where rows above five medians
    of the norm change A by 0.05 or more.
    Source: Razzhigaev et al. 2024, arXiv:2311.05928; massive activations: Sun et al. 2024,
    arXiv:2402.17762.

    Raises:
        ConfigError, MissingDataError, NotEnoughDataError, NonFiniteError: see ``clouds_of``.

    Example:
        >>> found = probes.anisotropy(store, sites="blocks.3.resid_post", max_rows=300)
    """
    start = time.monotonic()
    clouds = clouds_of(source, sites=sites, max_rows=max_rows, repeated=True, seed=seed,
                       controls=controls)  # fmt: skip
    rows: list[dict[str, Any]] = []
    warned: list[str] = []
    for cloud in clouds:
        mine = _rows_of(cloud)
        values = {row["rows"]: row["anisotropy"] for row in mine}
        if abs(values["all"] - values["without_massive"]) >= SHIFT:
            warned.append(
                f"{cloud.site} of {cloud.source or 'array'}: {mine[0]['n_massive']} rows of "
                f"massive norm take anisotropy from {values['without_massive']:.3f} to "
                f"{values['all']:.3f}"
            )
        rows += mine
    places = site_places(row["site"] for row in rows)
    rows = [{**row, "order": places[row["site"]]} for row in rows]
    return Anisotropy(
        **columns(rows), warnings=tuple(warned), controls=_controls(rows),
        config={"max_rows": max_rows, "seed": seed, "massive": MASSIVE},
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip


def _rows_of(cloud: Cloud) -> list[dict[str, Any]]:
    x = cloud.x()
    norms = np.linalg.norm(x, axis=1)
    middle = float(np.median(norms))
    massive = norms > MASSIVE * middle
    first = (cloud.positions == 0) & (cloud.tokens is not None)
    keep = {"all": np.ones(len(x), bool), "without_first": ~first, "without_massive": ~massive}
    return [
        {
            "source": cloud.source, "site": cloud.site, "rows": name, "layer": cloud.layer,
            "anisotropy": _share(x, chosen), "isotropic": _isotropic(int(chosen.sum()), x.shape[1]),
            "n": int(chosen.sum()), "n_massive": int(massive.sum()), "width": x.shape[1],
            "largest_norm": float(norms.max()) / middle if middle else np.nan,
            "control": float(cloud.control),
        }
        for name, chosen in keep.items()
    ]  # fmt: skip


def _share(x: Float[np.ndarray, "rows width"], keep: Bool[np.ndarray, " rows"]) -> float:
    n = int(keep.sum())
    if n < 2:
        return float("nan")
    mean = x[keep].mean(0)
    square = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), 8192):  # 1
        part = slice(start, start + 8192)
        block = x[part][keep[part]] - mean
        square += block.T @ block
    total = float(np.trace(square))
    return float(np.linalg.eigvalsh(square)[-1]) / total if total > 0 else float("nan")  # 2


def _isotropic(n: int, width: int) -> float:
    """Largest eigenvalue over the trace of ``n`` standard normal rows (Marchenko-Pastur's edge)."""
    return min(1.0, (1 + (width / n) ** 0.5) ** 2 / width) if n else float("nan")


def _controls(rows: Sequence[Mapping[str, Any]]) -> Controls:
    names = dict.fromkeys(row["source"] for row in rows if row["control"])
    of = lambda name: [  # noqa: E731 - used in the next line
        row["anisotropy"] for row in rows
        if row["source"] == name and row["rows"] == "without_first" and row["control"]
    ]  # fmt: skip
    return Controls({name: float(np.mean(of(name))) for name in names},
                    "mean over sites, without the first token")  # fmt: skip
