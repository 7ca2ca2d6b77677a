"""Formulas that say how good a dictionary is, each once: definition, unit, range, source.

``x`` are activations, ``x_hat`` their reconstructions, ``acts`` the latents in between. These
functions take a whole evaluation set; :mod:`lensbench.saes.evaluation.sums` computes the same
numbers batch by batch, with intervals over documents. All sums are in float64.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

Baseline = Literal["zero", "mean"]
"""What replaces the site for the worst case: zeros, or the mean activation of the store."""

DENSITY_EDGES: Float[np.ndarray, " edges"] = np.linspace(-7.0, 0.0, 29)
"""Edges of the density histogram: log10 of the firing frequency, four bins a decade."""


def l0(acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, ""]:
    """Mean number of active latents: mean_t sum_j 1[acts_tj != 0].

    Latents per token, 0 to d_sae.
    """
    return (acts != 0).sum(-1).double().mean()


def fvu(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained: sum_t |x_t - x_hat_t|^2 / sum_t |x_t - mean(x)|^2.

    Unitless, >= 0: 0 is perfect, 1 is what predicting the mean scores, more is worse than that.
    The mean is over all tokens given, so pass the whole evaluation set. Unchanged when x and x_hat
    are both shifted or scaled. NaN when x does not vary.
    Source: Gao et al. 2024, arXiv:2406.04093 (normalised MSE).
    """
    x, x_hat = x.double(), x_hat.double()
    return (x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()


def explained_variance(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, ""]:
    """``1 - fvu``: unitless, at most 1; 0 is what predicting the mean scores.

    Equivalent to R^2 pooled over dimensions, not the mean of per-dimension R^2.
    """
    return 1 - fvu(x, x_hat)


def explained_variance_legacy(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, ""]:
    """Mean over tokens of 1 - |x_t - x_hat_t|^2 / |x_t - mean(x)|^2: not the explained variance.

    Unitless, at most 1. A mean of ratios, so tokens near the mean weigh most; it can be far below
    :func:`explained_variance` on the same data. Kept to compare with published numbers: it is what
    SAEBench reports (Karvonen et al. 2025, arXiv:2503.09532) and what SAELens calls legacy. Theirs
    take the mean of each batch, this one that of the whole set. NaN where a token equals the mean.
    """
    x, x_hat = x.double(), x_hat.double()
    return (1 - (x - x_hat).pow(2).sum(-1) / (x - x.mean(0)).pow(2).sum(-1)).mean()


def mse(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, ""]:
    """mean_t |x_t - x_hat_t|^2, summed over d_model; squared units of the site, >= 0.

    It grows with the scale of the activations: compare it within one site of one model only.
    """
    return (x.double() - x_hat.double()).pow(2).sum(-1).mean()


def l2_ratio(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, ""]:
    """mean_t |x_hat_t| / |x_t|: 1 is no shrinkage of lengths. Unitless, >= 0.

    Lengths only: a reconstruction in the wrong direction scores 1 too.
    """
    return (x_hat.double().norm(dim=-1) / x.double().norm(dim=-1)).mean()


def cosine(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, " tokens"]:
    """Cosine of each token with its reconstruction: <x, x_hat> / (|x| |x_hat|).

    Unitless, -1 to 1; NaN where either vector is zero (no direction, so nothing to compare).
    """
    x, x_hat = x.double(), x_hat.double()
    return (x * x_hat).sum(-1) / (x.norm(dim=-1) * x_hat.norm(dim=-1))


def relative_reconstruction_bias(
    x: Float[Tensor, "tokens d_model"], x_hat: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, ""]:
    """Scale g at which x_hat / g is closest to x: sum |x_hat|^2 / sum <x, x_hat>.

    Unitless; 1 is unbiased, below 1 is shrinkage (the reconstruction is too short), above 1
    overshoots. Source: Rajamanoharan et al. 2024, arXiv:2404.16014, eq. 10.
    """
    x, x_hat = x.double(), x_hat.double()
    return x_hat.pow(2).sum() / (x * x_hat).sum()


def density(acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, " d_sae"]:
    """Firing frequency of each latent: share of tokens with acts_tj != 0, from 0 to 1."""
    return (acts != 0).double().mean(0)


def density_histogram(
    densities: Float[np.ndarray, " d_sae"],
) -> Int[np.ndarray, " bins"]:
    """Number of latents per bin of log10 density (:data:`DENSITY_EDGES`).

    Latents that never fired have no logarithm and are in no bin (see :func:`dead_fraction`); those
    below the first edge are counted in the first bin.
    """
    alive = densities[densities > 0]
    logs = np.clip(np.log10(alive), DENSITY_EDGES[0], DENSITY_EDGES[-1])
    return np.histogram(logs, DENSITY_EDGES)[0]


def dead_fraction(densities: Float[np.ndarray, " d_sae"]) -> float:
    """Share of latents that fired on none of the tokens seen, from 0 to 1.

    It falls as more tokens are looked at: never quote it without the number of tokens.
    """
    return float((densities == 0).mean())


def density_above(densities: Float[np.ndarray, " d_sae"], share: float) -> float:
    """Share of latents that fire on more than ``share`` of the tokens, from 0 to 1.

    Dense latents are seldom of one meaning. Source: SAEBench (Karvonen et al. 2025), at 1 % and
    10 %.
    """
    return float((densities > share).mean())


def ce_recovered(
    ce_clean: float, ce_sae: float, ce_ablated: float, *, baseline: Baseline = "zero"
) -> float:
    """Share of the loss an ablation costs that the dictionary gives back.

    ``(CE_ablated - CE_sae) / (CE_ablated - CE_clean)``, with CE in nats per predicted token and
    the site ablated to zero (``baseline="zero"``) or to the store's mean (``"mean"``). Unitless; 1
    is a perfect reconstruction, 0 no better than the ablation, negative is worse than that. NaN
    when the ablation costs nothing or even helps: there is nothing to give back. The two baselines
    are different numbers: name yours.
    Source: Cunningham et al. 2023, arXiv:2309.08600 (there with zero ablation).
    """
    del baseline  # named so that no caller can leave open which ablation it passed
    gap = ce_ablated - ce_clean
    return (ce_ablated - ce_sae) / gap if gap > 0 else float("nan")


def kl_recovered(kl_sae: float, kl_ablated: float, *, baseline: Baseline = "zero") -> float:
    """Like :func:`ce_recovered` for KL(clean || edited): ``(KL_abl - KL_sae) / KL_abl``.

    KL in nats per token, from the unedited model's distribution to the edited one. Unitless; 1 is
    perfect, 0 no better than the ablation. NaN when the ablation changes nothing.
    """
    del baseline
    return (kl_ablated - kl_sae) / kl_ablated if kl_ablated != 0 else float("nan")
