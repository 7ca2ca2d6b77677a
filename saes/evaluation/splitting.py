"""Which latents carry a label: k-sparse probing with a stop, after the feature-splitting test."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.saes.evaluation.labels import Latents, f1_score
from lensbench.saes.evaluation.probing import fitted

L1 = 0.01
RISE = 0.03
_STEPS = 500
_MAX_ITER = 500


@dataclass(frozen=True)
class MainLatents:
    """Latents accepted as those of a label, and what probes of 1, 2 ... latents score."""

    latents: Int[np.ndarray, " n"]
    f1: Float[np.ndarray, " tried"]
    """F1 on the fitting rows with the 1, 2 ... strongest latents, up to the first that failed."""


def main_latents(acts: Latents, y: Bool[np.ndarray, " rows"], max_k: int) -> MainLatents:
    """The latents of a label: the strongest, and each next one that lifts F1 by more than 0.03.

    Latents are ordered by their positive weights in an L1 probe (:func:`l1_weights`); a logistic
    regression (classes weighted evenly) is fitted to the first k; k stops at the first that does
    not beat the best F1 so far by 0.03. Source: Chanin et al. 2024 (arXiv:2409.14507).
    """
    weights = l1_weights(acts, y)
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] > 0][:max_k]
    f1: list[float] = []
    accepted = 0
    for k in range(1, len(order) + 1):
        columns = acts[:, order[:k]].toarray()
        probe, _ = fitted(columns, y, balanced=True, max_iter=_MAX_ITER)
        says = probe.decision_function(columns) > 0
        f1.append(f1_score(float((says & y).sum()), float(says.sum()), float(y.sum())))
        if k > 1 and f1[-1] <= max(f1[:-1]) + RISE:
            break
        accepted = k
    return MainLatents(order[:accepted], np.array(f1))


def l1_weights(acts: Latents, y: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " d_sae"]:
    """Weights of an L1 probe: argmin_w mean_i s_i BCE(a_i . w + b, y_i) + 0.01 |w|_1.

    s_i = (number of negatives) / (number of positives) for positives, else 1. Chanin et al. take 50
    epochs of Adam; this goes to the minimum itself (FISTA, Beck & Teboulle 2009), which needs no
    seed and no batch order.
    """
    n = len(y)
    share = np.where(y, (~y).sum() / max(y.sum(), 1), 1.0) / n
    step = 1 / _curvature(acts, share)
    w, b = np.zeros(acts.shape[1]), 0.0
    ahead, ahead_b, t = w, b, 1.0
    for _ in range(_STEPS):
        z = acts @ ahead + ahead_b
        residual = share * (1 / (1 + np.exp(-np.clip(z, -500, 500))) - y)
        moved = ahead - step * (acts.T @ residual)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * L1, 0)
        new_b = ahead_b - step * residual.sum()
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        rate = (before - 1) / t
        ahead, ahead_b = new + rate * (new - w), new_b + rate * (new_b - b)
        settled = np.abs(new - w).max() <= 1e-6 * max(np.abs(new).max(), 1e-12)
        w, b = new, new_b
        if settled and w.any():
            break
    return w


def _curvature(acts: Latents, share: Float[np.ndarray, " rows"]) -> float:
    """Largest eigenvalue of the loss's Hessian bound, A' diag(share) A / 4, A with a 1-column."""
    v, b, size = np.full(acts.shape[1], 1.0), 1.0, 1.0
    for _ in range(30):
        z = share * (acts @ v + b)
        v, b = acts.T @ z, z.sum()
        size = float(np.sqrt(v @ v + b * b))
        v, b = v / size, b / size
    return 0.25 * size * 1.1  # power iteration comes from below
