"""The smallest threshold whose text is still consistent, with a bound: Learn then Test.

Angelopoulos et al. 2021, used by CALM (Schuster et al. 2022). Thresholds are tested from the safest
down; each has a p-value for "the risk is above delta", and the first that is not rejected at level
epsilon ends the search. With probability 1 - epsilon over the calibration texts, the risk of the
chosen threshold is at most delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy import stats

from lensbench.errors import ConfigError


@dataclass(frozen=True)
class Calibration:
    """A threshold with its guarantee; ``threshold`` above 1 means that none was safe."""

    threshold: float
    risk: float
    """Mean risk of the calibration texts at this threshold."""
    delta: float
    epsilon: float
    n_texts: int
    tested: tuple[tuple[float, float, float], ...]
    """(threshold, mean risk, p-value), in the order of testing."""


def learn_then_test(
    risks: Float[np.ndarray, "thresholds texts"],
    thresholds: Sequence[float],
    *,
    delta: float = 0.1,
    epsilon: float = 0.05,
) -> Calibration:
    """The lowest threshold that is tested safe: risk at most ``delta`` at level ``epsilon``.

    p = min(exp(-n kl(min(r, delta), delta)), e P(Bin(n, delta) <= ceil(n r))), the
    Hoeffding-Bentkus bound for risks in [0, 1], tested in fixed sequence.

    Args:
        risks: loss of each calibration text at each threshold, such as the share of its tokens that
            are not the full model's.
        thresholds: their values, from the safest (highest) down.
        delta: risk that is tolerated.
        epsilon: probability with which the bound may fail.

    Raises:
        ConfigError: risks outside [0, 1], thresholds that do not fall, or no text.

    Example:
        >>> risks = np.array(
        ...     [[0.0] * 50, [0.01] * 50, [0.3] * 50]
        ... )  # of three thresholds on 50 texts
        >>> chosen = acceleration.learn_then_test(risks, [0.9, 0.6, 0.3], delta=0.1)
    """
    risks = np.asarray(risks, dtype=np.float64)
    if risks.ndim != 2 or len(risks) != len(thresholds) or risks.shape[1] == 0:
        raise ConfigError(
            f"risks must be [thresholds, texts] for {len(thresholds)} thresholds and at least one "
            f"text, got {list(risks.shape)}"
        )
    if not np.isfinite(risks).all() or risks.min() < 0 or risks.max() > 1:
        raise ConfigError("risks must be finite and lie in [0, 1]")
    if any(b >= a for a, b in pairwise(thresholds)):
        raise ConfigError("thresholds must fall: the safest (highest) is tested first")
    if not (0 < delta < 1 and 0 < epsilon < 1):
        raise ConfigError(f"delta and epsilon must lie in (0, 1), got {delta} and {epsilon}")
    n = risks.shape[1]
    chosen, seen, tested = float("inf"), float("nan"), []
    for threshold, row in zip(thresholds, risks, strict=True):
        mean = float(row.mean())
        p = _p_value(mean, n, delta)
        tested.append((float(threshold), mean, p))
        if p > epsilon:
            break
        chosen, seen = float(threshold), mean
    return Calibration(chosen, seen, delta, epsilon, n, tuple(tested))


def _p_value(mean: float, n: int, delta: float) -> float:
    """Hoeffding-Bentkus: how likely a mean this low is where the risk is above ``delta``."""
    low = min(mean, delta)
    kl = sum(a * np.log(a / b) for a, b in ((low, delta), (1 - low, 1 - delta)) if a > 0)
    bentkus = np.e * float(stats.binom.cdf(np.ceil(n * mean - 1e-9), n, delta))
    return float(min(np.exp(-n * kl), bentkus, 1.0))
