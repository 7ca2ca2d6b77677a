"""The core numbers of one dictionary, and what the mean, a random dictionary and the twin score."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.evaluation.ce import ABLATIONS, LossSums
from lensbench.saes.evaluation.controls import implants_recovered
from lensbench.saes.evaluation.metrics import dead_fraction, density_above
from lensbench.saes.evaluation.passes import Dictionary
from lensbench.saes.evaluation.result import UNITS
from lensbench.saes.evaluation.scores import ITSELF, Score
from lensbench.saes.evaluation.sums import Measured, ReconstructionSums

Metrics = dict[str, Measured]
_SHARED = ("ce_clean", "ce_zero_ablated", "ce_mean_ablated")
OF_LATENTS = ("l0", "dead_fraction", "density_over_1_percent", "density_over_10_percent")
"""Metrics that say nothing of what has no latents."""


def reconstruction(sums: ReconstructionSums, seed: int) -> Metrics:
    """Every metric that needs no model."""
    found: Metrics = dict(sums.metrics(seed))
    width = len(sums.density)
    found["dead_fraction"] = plain(dead_fraction(sums.density), width)
    for percent in (1, 10):
        above = density_above(sums.density, percent / 100)
        found[f"density_over_{percent}_percent"] = plain(above, width)
    return found


def metrics_of(
    dictionary: Dictionary,
    sums: ReconstructionSums,
    losses: LossSums | None,
    implants: Float[Tensor, "directions d_model"] | None,
    seed: int,
) -> Metrics:
    """Every core metric of one dictionary.

    Implanted directions are of what is read, so a transcoder's decoder rows cannot be them.
    """
    found = reconstruction(sums, seed)
    if losses is not None:
        found |= _fidelity(losses, state_of(ITSELF, dictionary.name), seed)
    if implants is not None and not dictionary.target:
        share, _ = implants_recovered(dictionary.codec, implants, seed)
        found["implants_recovered"] = plain(share, len(implants))
    return found


def control_scores(found: Metrics, source: str) -> list[Score]:
    """Core metrics of a control, as rows of the common table."""
    return [Score.of(m, source, value, UNITS[m]) for m, value in found.items()]


def control_metrics(
    sums: ReconstructionSums, losses: LossSums | None, state: str, seed: int
) -> Metrics:
    """Core metrics of a control on the same rows; the ablations are those of the dictionary."""
    found = reconstruction(sums, seed)
    if losses is not None:
        found |= {m: v for m, v in _fidelity(losses, state, seed).items() if m not in _SHARED}
    return found


def state_of(source: str, name: str) -> str:
    """A name among the states of the losses; a dictionary may itself be called ``mean``."""
    return f"{source}\0{name}"


def mean_scores(found: Metrics) -> list[Score]:
    """What the mean activation in place of every one scores: by definition, or as measured."""
    values = {"l0": 0.0, "fvu": 1.0, "explained_variance": 0.0}
    if "ce_clean" in found:
        zero, mean, clean = (
            found[f"ce_{x}"].mean for x in ("zero_ablated", "mean_ablated", "clean")
        )
        gap = zero - clean
        values["ce_reconstructed"] = mean
        values["ce_recovered_zero"] = (zero - mean) / gap if gap > 0 else float("nan")
        values["ce_recovered_mean"] = 0.0 if mean > clean else float("nan")
        values["kl_recovered_mean"] = 0.0
    n = found["fvu"].n
    return [Score(m, "mean_activation", v, n=n, unit=UNITS[m]) for m, v in values.items()]


def _fidelity(losses: LossSums, name: str, seed: int) -> Metrics:
    out = {
        "ce_clean": losses.per_token("ce/clean", seed=seed),
        "ce_zero_ablated": losses.per_token("ce/zero", seed=seed),
        "ce_mean_ablated": losses.per_token("ce/mean", seed=seed),
        "ce_reconstructed": losses.per_token(f"ce/{name}", seed=seed),
        "kl_reconstructed": losses.per_token(f"kl/{name}", seed=seed),
    }
    for quantity in ("ce", "kl"):
        for baseline in ABLATIONS:
            out[f"{quantity}_recovered_{baseline}"] = losses.recovered(
                quantity, name, baseline, seed=seed
            )
    return out


def plain(value: float, n: int) -> Measured:
    """A count over latents or directions: exact, so without an interval."""
    return Measured(value, float("nan"), float("nan"), n)


def arrays(dictionaries: Sequence[Dictionary], metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """The fields of the result that hold the core metrics."""
    present = {m for found in metrics.values() for m in found}
    names = tuple(m for m in UNITS if m in present)
    nothing = plain(float("nan"), 0)
    grid = [[metrics[d.name].get(m, nothing) for m in names] for d in dictionaries]
    return {
        "names": tuple(d.name for d in dictionaries),
        "sites": tuple(d.told_site for d in dictionaries),
        "architectures": tuple(d.architecture for d in dictionaries),
        "metrics": names,
        "values": np.array([[(m.mean, m.low, m.high) for m in row] for row in grid]),
        "counts": np.array([[m.n for m in row] for row in grid], np.int64),
        "undefined": np.array([[m.n_undefined for m in row] for row in grid], np.int64),
    }
