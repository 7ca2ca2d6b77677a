"""Which latents carry a label: k-sparse probing with a stop, read by absorption and splitting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from lensbench.errors import MismatchError
from lensbench.saes.evaluation.labels import LabelledRows, Latents, f1_score
from lensbench.saes.evaluation.linear import fitted

L1 = 0.01
RISE = 0.03
_STEPS = 500
_MAX_ITER = 500
_AT_ONCE = 16
"""Labels whose L1 probes are fitted side by side."""


@dataclass(frozen=True)
class MainLatents:
    """Latents accepted as those of a label, and what probes of 1, 2 ... latents score."""

    latents: Int[np.ndarray, " n"]
    f1: Float[np.ndarray, " tried"]
    """F1 on the fitting rows with the 1, 2 ... strongest latents, up to the first that failed."""
    probes: tuple[Any, ...] = ()
    """The probes of the first 1, 2 ... of ``latents``."""


class LabelLatents:
    """The main latents of every label in one dictionary, each found when it is first asked for.

    Decoder norms are folded into the latents first, so that rows of another length and latents of
    the inverse strength are the same dictionary.
    """

    def __init__(self, acts: Latents, rows: LabelledRows, W_dec: Any = None, max_k: int = 10):
        """Without decoder rows ``W_dec [d_sae, d_model]`` latents are taken as they are."""
        norm = 1.0 if W_dec is None else np.linalg.norm(W_dec, axis=1)
        self.acts: Latents = sparse.csr_array(acts * norm)
        self.rows, self.max_k = rows, max_k
        self.fit, self.held = self.acts[~rows.held], self.acts[rows.held]
        self._found: dict[int, MainLatents] = {}

    def of(self, label: int) -> MainLatents:
        """Those of one label, by its place; see :func:`main_latents`."""
        self.find([label])
        return self._found[label]

    def find(self, labels: Sequence[int]) -> None:
        """Find those of several labels together: the same, in about half the time."""
        new = [i for i in labels if i not in self._found]
        values = self.rows.values[~self.rows.held]
        for at in range(0, len(new), _AT_ONCE):
            some = new[at : at + _AT_ONCE]
            weights = l1_weights(self.fit, values[:, some])
            for i, w in zip(some, weights.T, strict=True):
                self._found[i] = main_latents(self.fit, values[:, i], w, self.max_k)

    def check(self, rows: LabelledRows, d_sae: int, max_k: int) -> "LabelLatents":
        """Itself, where it is of these labels, this width and ``max_k``.

        Raises:
            MismatchError: of other ones.
        """
        own = (self.acts.shape[1], self.max_k)
        if self.rows is not rows or own != (d_sae, max_k):
            raise MismatchError(
                f"main latents of {own[0]} latents, at most {own[1]} for a label, do not belong to "
                f"these rows with {d_sae} latents and max_k={max_k}"
            )
        return self


def main_latents(
    acts: Latents, y: Bool[np.ndarray, " rows"], weights: Float[np.ndarray, " d_sae"], max_k: int
) -> MainLatents:
    """The latents of a label: the strongest, and each next one that lifts F1 by more than 0.03.

    Latents are ordered by their positive ``weights`` in an L1 probe (:func:`l1_weights`); a
    logistic regression (classes weighted evenly) is fitted to the first k; k stops at the first
    that does not beat the best F1 so far by 0.03. Source: Chanin et al. 2024 (arXiv:2409.14507).
    """
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] > 0][:max_k]
    all_columns = acts[:, order].toarray()
    f1: list[float] = []
    probes: list[Any] = []
    for k in range(1, len(order) + 1):
        columns = np.ascontiguousarray(all_columns[:, :k])
        probe, _ = fitted(columns, y, balanced=True, max_iter=_MAX_ITER)
        says = probe.decision_function(columns) > 0
        f1.append(f1_score(float((says & y).sum()), float(says.sum()), float(y.sum())))
        if k > 1 and f1[-1] <= max(f1[:-1]) + RISE:
            break
        probes.append(probe)
    return MainLatents(order[: len(probes)], np.array(f1), tuple(probes))


def l1_weights(
    acts: Latents, y: Bool[np.ndarray, "rows labels"]
) -> Float[np.ndarray, "d_sae labels"]:
    """L1 probes, a column for a label: argmin_w mean_i s_i BCE(a_i . w + b, y_i) + 0.01 |w|_1.

    s_i = (number of negatives) / (number of positives) for positives, else 1. Chanin et al. take 50
    epochs of Adam; this goes towards the minimum itself (FISTA, Beck & Teboulle 2009, until no
    weight moves by more than 1e-6 of the largest, at most 500 steps), which needs no seed and no
    batch order. Labels do not touch each other: columns of one product stand side by side.
    """
    turned = acts.T  # made once: scipy builds a new matrix at every .T
    share = np.stack([np.where(c, (~c).sum() / max(c.sum(), 1), 1.0) / len(c) for c in y.T], 1)
    step = np.array([1 / _curvature(acts, turned, s) for s in np.ascontiguousarray(share.T)])
    found, going = np.zeros((acts.shape[1], y.shape[1])), np.arange(y.shape[1])
    w, b = found.copy(), np.zeros(y.shape[1])
    ahead, ahead_b, t = w, b, 1.0
    for _ in range(_STEPS):
        residual = _residual(acts @ ahead + ahead_b, y, share)
        moved = ahead - step * (turned @ residual)
        new = np.sign(moved) * np.maximum(np.abs(moved) - step * L1, 0)
        # Summed along memory, as a single label's residual would be: the same to the last bit.
        new_b = ahead_b - step * np.ascontiguousarray(residual.T).sum(1)
        t, before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        rate = (before - 1) / t
        change = new - w
        ahead, ahead_b = new + rate * change, new_b + rate * (new_b - b)
        w, b = new, new_b
        largest = np.abs(w).max(0)
        settled = (np.abs(change).max(0) <= 1e-6 * np.maximum(largest, 1e-12)) & (largest > 0)
        if settled.any():
            found[:, going[settled]] = w[:, settled]
            on = np.flatnonzero(~settled)
            going, y, share, step = going[on], y[:, on], share[:, on], step[on]
            w, b, ahead, ahead_b = w[:, on], b[on], ahead[:, on], ahead_b[on]
        if not len(going):
            break
    found[:, going] = w
    return found


def _residual(
    z: Float[np.ndarray, "rows labels"],
    y: Bool[np.ndarray, "rows labels"],
    share: Float[np.ndarray, "rows labels"],
) -> Float[np.ndarray, "rows labels"]:
    """``share * (sigmoid(z) - y)``, in the memory of ``z``."""
    np.clip(z, -500, 500, out=z)
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1
    np.divide(1, z, out=z)
    z -= y
    z *= share
    return z


def _curvature(acts: Latents, turned: Any, share: Float[np.ndarray, " rows"]) -> float:
    """Largest eigenvalue of the loss's Hessian bound, A' diag(share) A / 4, A with a 1-column."""
    v, b, size = np.full(acts.shape[1], 1.0), 1.0, 1.0
    for _ in range(30):
        z = share * (acts @ v + b)
        v, b = turned @ z, z.sum()
        size = float(np.sqrt(v @ v + b * b))
        v, b = v / size, b / size
    return 0.25 * size * 1.1  # power iteration comes from below
