"""Estimators of intrinsic dimension from ratios of neighbour distances.

For points that are locally uniform on a manifold of dimension d, the ratio mu = r_{n2} / r_{n1} of
the distances to a point's n2-th and n1-th neighbour has a density that depends on d alone.
``two_nn`` uses n1 = 1, n2 = 2; ``gride`` n2 = 2 n1, where n1 is the scale: noise shows at small
scales and curvature at large ones. All of them fall short of the truth in many dimensions (from
about 20 at some thousand points), because neighbours are then too far away to be local.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from lensbench.arguments import whole_number
from lensbench.errors import NotEnoughDataError, UnknownNameError
from lensbench.probes.geometry.clouds import as_points, distinct
from lensbench.probes.geometry.nearest import neighbours

Estimator = Literal["regression", "maximum_likelihood"]
ESTIMATORS = ("regression", "maximum_likelihood")
REGRESSED = 0.2
"""Share of the smallest ratios that the regression uses, as LLM-Microscope does."""
LEAST = 50
"""Distinct rows: the regression's fifth then holds ten ratios, and the likelihood's relative error,
1 / sqrt(n) with two neighbours, is .14; with fewer the figure says more of the draw than of d."""


@dataclass(frozen=True)
class Dimension:
    """One estimate of intrinsic dimension."""

    value: float
    """Dimensions; NaN where no ratio above 1 is left."""
    error: float
    """1 / sqrt(Fisher information), as if rows were independent; NaN of the regression."""
    n1: int
    n: int
    """Ratios used."""
    n_duplicates: int
    """Rows left out because they equal another."""
    scale: float
    """Mean distance to the 2 n1-th neighbour, in units of the activations."""


def two_nn(x: Any, estimator: Estimator = "maximum_likelihood") -> Dimension:
    """Intrinsic dimension from the distances to the two nearest neighbours.

    With mu = r2 / r1, P(mu > t) = t^-d. ``maximum_likelihood``: d = n / sum log mu (GRIDE at
    n1 = 1). ``regression``: slope through the origin of -log(1 - F) on log mu over the smallest
    fifth of the ratios, F = 0/n, 1/n, ..., as LLM-Microscope fits it.
    Source: Facco et al. 2017; Razzhigaev et al. 2024, arXiv:2311.05928.

    Raises:
        UnknownNameError: another estimator.
        ConfigError, NonFiniteError: no matrix of finite numbers.
        NotEnoughDataError: fewer than 50 distinct rows.

    Example:
        >>> found = probes.two_nn(x[:300])
    """
    if estimator not in ESTIMATORS:
        raise UnknownNameError("estimator", str(estimator), known=ESTIMATORS)
    if estimator == "maximum_likelihood":
        return gride(x, 1)
    far, duplicates = _distances(as_points(x), 2)
    return regression(far[:, 0], far[:, 1], duplicates)


def gride(x: Any, n1: int = 1) -> Dimension:
    """Intrinsic dimension at scale ``n1``: maximum likelihood of mu = r_{2 n1} / r_{n1}.

    f(mu | d) = d (mu^d - 1)^(n2 - n1 - 1) / (mu^((n2 - 1) d + 1) B(n2 - n1, n1)), n2 = 2 n1; so d
    solves n / d + (n2 - n1 - 1) sum log mu / (1 - mu^-d) - (n2 - 1) sum log mu = 0. Ratios above
    q50 + 20 (q95 - q50) are outliers and left out.
    Source: Denti et al. 2022 (GRIDE), as used by Cheng et al. 2024, arXiv:2405.15471.

    Raises:
        ConfigError: ``n1`` below 1.
        ConfigError, NonFiniteError: no matrix of finite numbers.
        NotEnoughDataError: fewer than 2 n1 + 1 (and 50) distinct rows.

    Example:
        >>> found = probes.gride(x[:300], n1=2)
    """
    n1 = whole_number("n1", n1, least=1)
    far, duplicates = _distances(as_points(x), 2 * n1)
    return likelihood(far[:, n1 - 1], far[:, 2 * n1 - 1], n1, duplicates)


def regression(
    near: Float[np.ndarray, " rows"], far: Float[np.ndarray, " rows"], duplicates: int = 0
) -> Dimension:
    """The fit of :func:`two_nn` on given distances."""
    mu, scale = _ratios(near, far)
    mu = np.sort(mu)
    most = int(len(mu) * REGRESSED)
    level = np.arange(len(mu)) / max(len(mu), 1)
    log_mu, height = np.log(mu[:most]), -np.log1p(-level[:most])
    square = float(log_mu @ log_mu)
    value = float(log_mu @ height) / square if square > 0 else float("nan")
    return Dimension(value, float("nan"), 1, len(mu), duplicates, scale)


def likelihood(
    near: Float[np.ndarray, " rows"], far: Float[np.ndarray, " rows"], n1: int, duplicates: int = 0
) -> Dimension:
    """The likelihood of :func:`gride` on given distances."""
    mu, scale = _ratios(near, far)
    if len(mu):
        middle, high = np.quantile(mu, [0.5, 0.95])
        mu = mu[mu <= 20 * (high - middle) + middle]
    log_mu = np.log(mu)
    value, error = _solve(log_mu, n1)
    return Dimension(value, error, n1, len(mu), duplicates, scale)


def _distances(x: Float[np.ndarray, "rows width"], k: int) -> tuple[np.ndarray, int]:
    kept = distinct(x)
    if kept.sum() < LEAST:
        raise NotEnoughDataError(
            f"{int(kept.sum())} distinct rows of {len(x)}; an intrinsic dimension needs at least "
            f"{LEAST}, where its standard error is a seventh of it; give more rows"
        )
    return neighbours(x[kept], k)[0], int((~kept).sum())


def _ratios(
    near: Float[np.ndarray, " rows"], far: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " some"], float]:
    """Ratios above 1 and the mean outer distance; equal distances say nothing of d."""
    known = np.isfinite(near) & np.isfinite(far) & (near > 0)
    mu = far[known] / near[known]
    scale = float(far[known].mean()) if known.any() else float("nan")
    return mu[mu > 1 + np.finfo(np.float64).eps], scale


def _solve(log_mu: Float[np.ndarray, " rows"], n1: int) -> tuple[float, float]:
    """Root of the likelihood's slope in d, and 1 / sqrt(-second derivative) there."""
    from scipy.optimize import brentq

    n, total = len(log_mu), float(log_mu.sum())
    if n == 0 or not total > 0:
        return float("nan"), float("nan")

    def slope(d: float) -> float:
        inner = (log_mu / -np.expm1(-d * log_mu)).sum() if n1 > 1 else 0.0
        return n / d + (n1 - 1) * float(inner) - (2 * n1 - 1) * total

    high = 1.0
    while slope(high) > 0:
        high *= 2
    value = float(brentq(slope, 1e-9, high, xtol=1e-10))  # pyright: ignore[reportArgumentType] - a float unless asked for more
    gone = np.exp(-value * log_mu)
    bend = n / value**2 + (n1 - 1) * float((log_mu**2 * gone / (1 - gone) ** 2).sum())
    return value, bend**-0.5
