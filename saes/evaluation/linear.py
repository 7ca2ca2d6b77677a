"""Linear probes of every label on the activations: fitted once, read by several measures.

They depend on activations and labels only, so one set serves every dictionary of a site.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lensbench.errors import MismatchError
from lensbench.saes.evaluation.labels import LabelledRows, f1_score

MAX_ITER, MOST_NEWTON = 1000, 1024
LEAST_F1 = 0.6
"""Of a probe that counts as the truth about a label."""


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


def unreadable(f1: float, least: float) -> str:
    """Why a label cannot be scored where its probe reaches this F1; empty where it can."""
    return "" if f1 >= least else f"probe F1 {f1:.2f} below {least}"


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


def fitted(
    columns: Float[np.ndarray, "rows k"],
    y: Any,
    *,
    weights: Any = None,
    balanced: bool = False,
    max_iter: int = MAX_ITER,
) -> tuple[Any, bool]:
    """A logistic regression (L2, C = 1), and whether it settled within ``max_iter`` steps.

    Up to 1,024 columns it is solved by Newton's method, which reaches the same minimum in few steps
    whatever the scale of the columns.
    """
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    of = "balanced" if balanced else None
    solver = "newton-cholesky" if columns.shape[1] <= MOST_NEWTON else "lbfgs"
    probe = LogisticRegression(C=1.0, max_iter=max_iter, class_weight=of, solver=solver)
    with warnings.catch_warnings():  # said by the flag instead
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)  # it goes on with L-BFGS then
        probe.fit(columns, y, sample_weight=weights)
    return probe, bool(np.max(probe.n_iter_) < max_iter)
