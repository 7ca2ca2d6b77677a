"""The smallest threshold whose text is still consistent, with a bound: Learn then Test.

Angelopoulos et al. 2021, used by CALM (Schuster et al. 2022). Thresholds are tested from the safest
down; each has a p-value for "the risk is above delta", and the first that is not rejected at level
epsilon ends the search. With probability 1 - epsilon over the calibration texts, the risk of the
chosen threshold is at most delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy import stats

from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration(Result):
    """A threshold with its guarantee; an infinite ``threshold`` means that none was safe."""

    threshold: float
    risk: float
    """Mean risk of the calibration texts at this threshold; NaN where none was safe."""
    delta: float
    epsilon: float
    n_texts: int
    tested: tuple[tuple[float, float, float], ...]
    """(threshold, mean risk, p-value), in the order of testing."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per threshold that was tested, the safest first: mean risk, p-value, verdict."""
        import pandas as pd

        frame = pd.DataFrame(self.tested, columns=["threshold", "risk", "p_value"])
        frame["safe"] = frame["p_value"] <= self.epsilon
        frame["n"] = self.n_texts
        frame.attrs["units"] = {"risk": "mean over texts, 0 to 1", "n": "texts"}
        return frame

    def summary(self) -> dict[str, float]:
        """The threshold (infinite: none), its mean risk, the risk tolerated, and what it rests on.

        ``bound fails`` is the probability with which the risk may be above ``tolerated`` after all.
        """
        return {
            "threshold": self.threshold,
            "risk": self.risk,
            "tolerated": self.delta,
            "bound fails": self.epsilon,
            "texts": float(self.n_texts),
            "thresholds tested": float(len(self.tested)),
        }

    def plot(self) -> "go.Figure":
        """Mean risk of every threshold that was tested, and the risk that is tolerated."""
        from lensbench.plots import scatter

        frame = self.to_frame()
        frame["verdict"] = np.where(frame["safe"], "tested safe", "not shown to be safe")
        none = "no threshold is tested safe"
        chosen = f"chosen: {self.threshold:g}" if np.isfinite(self.threshold) else none
        figure = scatter(
            frame, x="threshold", y="risk", color="verdict", hover_columns=("p_value", "n"),
            title="Which thresholds are safe",
            subtitle=f"{chosen}; n = {self.n_texts} texts; the bound fails with probability "
            f"{self.epsilon:g}", labels={"risk": "mean risk"},
        )  # fmt: skip
        told = f"tolerated: {self.delta:g}"
        return figure.add_hline(y=self.delta, line_dash="dot", annotation_text=told)


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
        >>> chosen.threshold
        0.6
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
    return Calibration(
        threshold=chosen, risk=seen, delta=float(delta), epsilon=float(epsilon), n_texts=n,
        tested=tuple(tested), config={"thresholds": [float(t) for t in thresholds]},
        provenance=record(),
    )  # fmt: skip


def texts_needed(risk: float, delta: float, epsilon: float) -> int | None:
    """Texts of this mean risk from which on the bound of :func:`learn_then_test` holds.

    From that number on it holds for every larger one. None where it never does: the risk is not
    below ``delta``.

    Example:
        >>> texts_needed(0.0, delta=0.1, epsilon=0.05)
        29
    """
    if risk >= delta:
        return None
    kl = sum(a * np.log(a / b) for a, b in ((risk, delta), (1 - risk, 1 - delta)) if a > 0)
    n = int(np.ceil(-np.log(epsilon) / kl))  # from here on Hoeffding's part alone is enough
    while n > 1 and _p_value(risk, n - 1, delta) <= epsilon:
        n -= 1
    return n


def _p_value(mean: float, n: int, delta: float) -> float:
    """Hoeffding-Bentkus: how likely a mean this low is where the risk is above ``delta``."""
    low = min(mean, delta)
    kl = sum(a * np.log(a / b) for a, b in ((low, delta), (1 - low, 1 - delta)) if a > 0)
    bentkus = np.e * float(stats.binom.cdf(np.ceil(n * mean - 1e-9), n, delta))
    return float(min(np.exp(-n * kl), bentkus, 1.0))
