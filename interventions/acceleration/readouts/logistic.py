"""A logistic regression as a frozen value: the classifier behind several readouts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lensbench.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Logistic:
    """Probability ``sigmoid(x w + b)``."""

    weight: Float[np.ndarray, " features"]
    bias: float

    def __call__(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, " rows"]:
        """Probability of every row.

        Raises:
            ConfigError: rows of another width.
        """
        if x.shape[-1] != len(self.weight):
            raise ConfigError(f"rows have width {x.shape[-1]}, the classifier {len(self.weight)}")
        scores = np.asarray(x, dtype=np.float64) @ self.weight + self.bias
        return np.asarray(1 / (1 + np.exp(-np.clip(scores, -60, 60))))


def fit_logistic(
    x: Float[np.ndarray, "rows features"],
    share: Float[np.ndarray, " rows"],
    *,
    mass: Float[np.ndarray, " rows"] | None = None,
    balanced: bool = False,
    penalty: float = 1e-2,
) -> Logistic:
    """Fit to the share of positives of each row, on features brought to unit variance.

    Args:
        x: features.
        share: between 0 and 1; 0 or 1 where a row is one case.
        mass: cases behind each row; 1 each by default.
        balanced: give both classes the same mass.
        penalty: weight of ``|w|^2 / 2`` beside the mean loss.

    Raises:
        ConfigError: shapes that do not fit, or values that are not finite.
    """
    x, share = np.asarray(x, dtype=np.float64), np.asarray(share, dtype=np.float64)
    if x.ndim != 2 or share.shape != x.shape[:1] or not len(x):
        raise ConfigError(
            f"x must be [rows, features] and share [rows], got {x.shape}, {share.shape}"
        )
    if not np.isfinite(x).all() or not np.isfinite(share).all():
        raise ConfigError("features or labels are not finite (NaN or infinity)")
    mass = np.ones(len(x)) if mass is None else np.asarray(mass, dtype=np.float64)
    weights = np.concatenate([mass * share, mass * (1 - share)])
    positive = float((mass * share).sum() / mass.sum())
    if positive in (0.0, 1.0):  # one class only: nothing to tell apart
        return Logistic(np.zeros(x.shape[1]), 30.0 if positive else -30.0)
    if balanced:
        weights /= np.repeat([2 * positive, 2 * (1 - positive)], len(x))
    from sklearn.linear_model import LogisticRegression

    mean, spread = x.mean(0), np.maximum(x.std(0), 1e-8)
    scaled = (x - mean) / spread
    kept = weights > 0
    labels = np.repeat([1, 0], len(x))
    solver = LogisticRegression(C=1 / (penalty * weights.sum()), max_iter=1000)
    solver.fit(np.concatenate([scaled, scaled])[kept], labels[kept], sample_weight=weights[kept])
    weight = np.asarray(solver.coef_)[0] / spread
    return Logistic(weight, float(np.asarray(solver.intercept_)[0] - weight @ mean))
