"""Linear probes of every label on the activations: fitted once, read by several measures.

They depend on activations and labels only, so one set serves every dictionary of a site.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lensbench.errors import MismatchError
from lensbench.saes.evaluation.labels import LabelledRows, f1_score
from lensbench.saes.evaluation.probing import fitted


@dataclass(frozen=True)
class LinearProbes:
    """Weights and intercepts by label; NaN where the fitting rows lack one of the classes."""

    weights: Float[np.ndarray, "labels d_model"]
    intercepts: Float[np.ndarray, " labels"]

    def logits(self, x: Float[np.ndarray, "rows d_model"]) -> Float[np.ndarray, "rows labels"]:
        """What every probe says of every row; yes above 0."""
        return x @ self.weights.T + self.intercepts

    def f1(
        self, x: Float[np.ndarray, "rows d_model"], truth: Bool[np.ndarray, "rows labels"]
    ) -> Float[np.ndarray, " labels"]:
        """F1 on these rows; NaN without a probe or without positives."""
        says = self.logits(x) > 0
        return np.array([
            f1_score(float((says[:, i] & truth[:, i]).sum()), float(says[:, i].sum()),
                     float(truth[:, i].sum())) if np.isfinite(self.intercepts[i]) else np.nan
            for i in range(truth.shape[1])
        ])  # fmt: skip

    def check(self, rows: LabelledRows, d_model: int) -> "LinearProbes":
        """Itself, where it is of these labels and activations.

        Raises:
            MismatchError: of other ones.
        """
        if self.weights.shape != (len(rows.names), d_model):
            raise MismatchError(
                f"probes {list(self.weights.shape)} do not belong to {len(rows.names)} labels of "
                f"activations [{d_model}]"
            )
        return self


def linear_probes(x: Float[np.ndarray, "rows d_model"], rows: LabelledRows) -> LinearProbes:
    """A logistic probe of every label on the fitting rows (L2, C = 1, classes weighted evenly)."""
    n = len(rows.names)
    weights, intercepts = np.full((n, x.shape[1]), np.nan), np.full(n, np.nan)
    x_fit = x[~rows.held]
    for i in range(n):
        y = rows.values[~rows.held, i]
        if y.any() and not y.all():
            probe, _ = fitted(x_fit, y, balanced=True)
            weights[i], intercepts[i] = probe.coef_[0], probe.intercept_[0]
    return LinearProbes(weights, intercepts)
