"""Latents taken out of activations, and what a linear probe then says. Shared by TPP and SCR.

Taking latents S out and keeping the error term is x' = x - sum_{j in S} a_j W_dec_j, so a linear
probe's logit changes by -sum_{j in S} a_j (w . W_dec_j): exactly, without building x'.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.inputs import decoder_of, fits, latents_of, rows_of
from lensbench.saes.evaluation.labels import LabelledRows, Latents

THRESHOLDS = (2, 5, 10, 20, 50, 100, 500)
DRAWS = 8
"""Draws of random latents that a control averages."""


@dataclass(frozen=True)
class Probed:
    """Latents, activations and decoder of one dictionary, split into the two halves."""

    fit: Latents
    held: Latents
    x_fit: Float[np.ndarray, "rows d_model"]
    x_held: Float[np.ndarray, "held d_model"]
    W_dec: Float[np.ndarray, "d_sae d_model"]
    alive: Int[np.ndarray, " alive"]
    """Latents that fire on the fitting half: those that random ones are drawn from."""

    @classmethod
    def of(cls, acts: Any, x: Any, dictionary: Any, rows: LabelledRows) -> "Probed":
        """Check that the parts belong together, and split them."""
        latents = latents_of(acts, len(rows.docs))
        raw, W_dec = rows_of(x, len(rows.docs)), decoder_of(dictionary)
        fits(latents, W_dec, raw.shape[1])
        fit, held = latents[~rows.held], latents[rows.held]
        alive = np.unique(fit.indices)
        return cls(fit, held, raw[~rows.held], raw[rows.held], W_dec, alive)

    def apart(
        self, y: Bool[np.ndarray, " rows"], weights: Float[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, " d_sae"]:
        """mean_pos a_j - mean_neg a_j over the fitting half, rows weighted."""
        w = np.ones(len(y)) if weights is None else weights
        sides = [w * y, w * ~y]
        means = [np.asarray(self.fit.T @ side).ravel() / side.sum() for side in sides]
        return means[0] - means[1]

    def logits(
        self, probe: Any, without: Int[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, " rows"]:
        """The probe's logits on the scored half, these latents (by default none) taken out."""
        w = probe.coef_[0]
        without = np.zeros(0, np.int64) if without is None else without
        gone = self.held[:, without] @ (self.W_dec[without] @ w)
        return self.x_held @ w + probe.intercept_[0] - gone

    def random(self, n: int, seed: int, label: int) -> list[Int[np.ndarray, " n"]]:
        """``DRAWS`` sets of ``n`` latents that fire, drawn without regard to any label."""
        rng = np.random.default_rng([own_seed(seed, "random latents"), label, n])
        size = min(n, len(self.alive))
        return [rng.choice(self.alive, size, replace=False) for _ in range(DRAWS)]


def strongest(effect: Float[np.ndarray, " d_sae"], n: int) -> Int[np.ndarray, " n"]:
    """The ``n`` latents of largest effect, fewer where fewer have one above 0."""
    order = np.argsort(-effect, kind="stable")[:n]
    return order[effect[order] > 0]


def even(*labels: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Weights that give every combination of these labels the same total; sum 1."""
    cell = sum(y.astype(np.int64) << i for i, y in enumerate(labels))
    _, index, counts = np.unique(cell, return_inverse=True, return_counts=True)
    return 1 / (counts[index] * len(counts))


def thresholds_of(values: Any) -> tuple[int, ...]:
    """The numbers of latents to take out, ascending.

    Raises:
        ConfigError: none, or not whole numbers of at least 1.
    """
    found = tuple(sorted({whole_number("each of thresholds", v, least=1) for v in values}))
    if not found:
        raise ConfigError(f"thresholds must hold numbers of latents such as {THRESHOLDS}")
    return found
