"""Intervals and summaries that respect the unit of sampling.

Tokens of one document are not independent: every bootstrap here resamples documents (or prompts),
never tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from operator import index as whole
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import ConfigError

_AT_ONCE = 4_000_000  # counts held at a time: 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (NaN where there is none) and the number of units behind it."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """``0.812 [0.790, 0.831] n=128``, or ``0.812 [no interval] n=1``."""
        known = np.isfinite(self.low) and np.isfinite(self.high)
        span = f"{self.low:.3f}, {self.high:.3f}" if known else "no interval"
        return f"{self.mean:.3f} [{span}] n={self.n}"


def bootstrap_mean(
    values: Float[np.ndarray, " tokens"],
    groups: Int[np.ndarray, " tokens"] | None = None,
    *,
    n_boot: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` with a percentile bootstrap over ``groups`` (documents or prompts).

    Each resample draws whole groups with replacement and takes the mean over all their tokens.
    Without ``groups`` every value is a unit of its own (one value per prompt). One unit says
    nothing about the spread: the bounds are then NaN.
    Source: Efron 1979, cluster version (Cameron, Gelbach & Miller 2008).

    Raises:
        ConfigError: no values, one that is not finite, more axes than one, groups that are not one
            per value, no resamples, a negative seed, or a level that is no share between 0 and 1.
    """
    x, tail = _values(values), (1 - _level(level)) / 2
    n_boot, seed = _count("n_boot", n_boot, least=1), _count("seed", seed)
    of = np.arange(x.size) if groups is None else np.asarray(groups)
    if of.shape != x.shape:
        raise ConfigError(
            f"groups must be one per value: got groups of shape {list(of.shape)} for {x.size} "
            "values"
        )
    _, index = np.unique(of, return_inverse=True)
    sums, counts = np.bincount(index, weights=x), np.bincount(index)
    n = len(sums)
    if n == 1:
        return Interval(float(x.mean()), float("nan"), float("nan"), n)
    rng = np.random.default_rng(seed)
    share = np.full(n, 1 / n)
    # A few resamples at a time: a matrix of all of them would be n_boot x n.
    drawn = (rng.multinomial(n, share, size=k) for k in _pieces(n_boot, max(1, _AT_ONCE // n)))
    means = np.concatenate([(d @ sums) / (d @ counts) for d in drawn])
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(x.mean()), float(low), float(high), n)


def bootstrap_sums(
    measure: Callable[..., Any], *sums: Float[np.ndarray, "... groups"], seed: int = 0
) -> tuple[Any, Any, Any]:
    """A measure of totals over groups with its 95 % bootstrap: ``(value, low, high)``.

    ``bootstrap_sums(np.divide, hits, tokens)`` is a share per token. The sums have one entry per
    group (document or prompt) on their last axis; each of 1000 resamples draws whole groups with
    replacement and takes the measure of their totals. The bounds are NaN with one group, and where
    a resample has nothing to measure.
    """
    n = sums[0].shape[-1]
    value = measure(*(x.sum(-1) for x in sums))
    if n < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=1000).T
    low, high = np.quantile(measure(*(x @ drawn for x in sums)), (0.025, 0.975), axis=-1)
    return value, low, high


def wilson(hits: int, n: int, *, level: float = 0.95) -> Interval:
    """A share ``hits / n`` with the Wilson score interval, which is sound near 0 and 1.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with z the normal quantile.
    Source: Wilson 1927. No trials (``n=0``): all NaN, which prints as "no interval".

    Raises:
        ConfigError: more hits than trials, counts that are no whole numbers (a share, say), or a
            level that is no share between 0 and 1.
    """
    hits, n = _count("hits", hits), _count("n", n)
    z = NormalDist().inv_cdf(0.5 + _level(level) / 2)
    if hits > n:
        raise ConfigError(f"a share needs 0 <= hits <= n, got {hits} of {n}")
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    p, scale = hits / n, 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / scale
    low = 0.0 if hits == 0 else middle - half
    return Interval(p, low, 1.0 if hits == n else middle + half, n)


def bounds(
    drawn: Float[np.ndarray, "..."], axis: int = 0
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The 2.5 % and 97.5 % quantiles of resamples along an axis; NaN where all of them are."""
    known = np.isfinite(drawn).any(axis)
    filled = np.where(np.expand_dims(known, axis), drawn, 0.0)
    low, high = np.nanquantile(filled, [0.025, 0.975], axis=axis)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def mean_there(
    values: Float[np.ndarray, "..."], axis: int | None = None
) -> Float[np.ndarray, "..."]:
    """Mean of what is finite; NaN where nothing is."""
    there = np.isfinite(values)
    n = there.sum(axis)
    return np.where(n > 0, np.where(there, values, 0.0).sum(axis) / np.maximum(n, 1), np.nan)


def told(
    name: str,
    values: Float[np.ndarray, " rows"],
    reduce: Callable[[Float[np.ndarray, " rows"]], Any] = np.mean,
) -> dict[str, float]:
    """A column in a line of a summary: its mean (or another figure), NaN where a value is missing.

    Then ``<name>_undefined`` says how many of the values are not finite, and ``<name>_defined`` is
    the figure of the others, which speaks for those alone.
    """
    there = np.isfinite(values)
    if len(values) and there.all():
        return {name: float(reduce(values))}
    rest = float(reduce(values[there])) if there.any() else float("nan")
    return {
        name: float("nan"), f"{name}_defined": rest,
        f"{name}_undefined": float((~there).sum()),
    }  # fmt: skip


def auroc(scores: Float[np.ndarray, " rows"], labels: Bool[np.ndarray, " rows"]) -> float:
    """Chance that a random positive outscores a random negative, ties counting half.

    Unitless, 0 to 1; 0.5 is chance. NaN where either class is missing. Equivalent to the
    Mann-Whitney U statistic over n_pos * n_neg. Source: Hanley & McNeil 1982.
    """
    from scipy.stats import rankdata

    n_pos = int(labels.sum())
    n_neg = len(labels) - n_pos
    if not n_pos or not n_neg:
        return float("nan")
    rank_sum = rankdata(scores)[labels].sum()
    return float((rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def pearson(a: Float[np.ndarray, " rows"], b: Float[np.ndarray, " rows"]) -> float:
    """Pearson's correlation, -1 to 1; NaN below two rows, or where one of the two is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: Float[np.ndarray, " rows"], b: Float[np.ndarray, " rows"]) -> float:
    """Correlation of ranks, -1 to 1; tied values share their mean rank. NaN where one is constant.

    Source: Spearman 1904.
    """
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(b))


def most_missed(found: int, drawn: int, of: int, level: float = 0.95) -> float:
    """Upper bound on a share, of ``found`` among ``drawn`` taken from ``of`` without replacement.

    The largest K / N with P(X <= found) > 1 - level, X hypergeometric; 0 with nothing to miss, NaN
    with nothing drawn.
    """
    if of == 0:
        return 0.0
    if drawn == 0:
        return float("nan")
    from scipy.stats import hypergeom

    most = np.arange(found, of - (drawn - found) + 1)
    likely = hypergeom.cdf(found, of, most, drawn) > 1 - level
    return float(most[likely].max() / of)


def missed_among(
    estimated: np.ndarray, measured: np.ndarray, chosen: tuple[str, ...], large: float
) -> tuple[int, int]:
    """Random ones called small whose measured change is large, and how many were called small."""
    random = np.array([c == "random" for c in chosen], dtype=bool)
    small = random & (np.abs(estimated) < large)
    return int((small & (np.abs(measured) >= large)).sum()), int(small.sum())


def pick(order: np.ndarray, top: int, random: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The first ``top`` of an order, ``random`` others, and which is which.

    Raises:
        ConfigError: nothing is picked.
    """
    top, random = _count("top", top), _count("random", random)
    best, rest = order[:top], order[top:]
    drawn = np.random.default_rng(seed).permutation(rest)[:random]
    if not len(best) + len(drawn):
        raise ConfigError("verify needs something to patch: top and random are both 0")
    return np.concatenate([best, drawn]), ("top",) * len(best) + ("random",) * len(drawn)


def _values(values: Any) -> Float[np.ndarray, " tokens"]:
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, ragged lists, complex numbers
        raise ConfigError(f"values must be real numbers, got {str(values)[:80]!r}") from error
    if x.ndim != 1:
        raise ConfigError(f"values must have one axis, got shape {list(x.shape)}")
    if x.size == 0:
        raise ConfigError("an interval needs at least one value, got none")
    if not np.isfinite(x).all():
        raise ConfigError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite")
    return x


def _count(name: str, value: Any, *, least: int = 0) -> int:
    try:
        number = -1 if isinstance(value, bool | np.bool_) else whole(value)
    except TypeError:  # a share, text, None
        number = -1
    if number < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def _level(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ConfigError(f"level must be a share between 0 and 1, such as 0.95, got {value!r}")
    return float(value)


def _pieces(total: int, size: int) -> list[int]:
    """``total`` as a sum of parts of at most ``size``."""
    whole, rest = divmod(total, size)
    return [size] * whole + ([rest] if rest else [])
