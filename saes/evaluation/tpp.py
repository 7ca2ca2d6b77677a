"""Targeted probe perturbation: does taking out a label's latents hurt that label and no other?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.ablations import (
    THRESHOLDS,
    Probed,
    even,
    strongest,
    thresholds_of,
)
from lensbench.saes.evaluation.inputs import rows_of
from lensbench.saes.evaluation.labels import LabelledRows
from lensbench.saes.evaluation.linear import LinearProbes, linear_probes
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetedPerturbation(Result):
    """Accuracy lost by every label's probe when the latents of every label are taken out."""

    labels: tuple[str, ...]
    thresholds: tuple[int, ...]
    accuracy: Float[np.ndarray, " labels"]
    """Of each label's probe on the scored rows, nothing taken out; NaN where a class is missing."""
    drop: Float[np.ndarray, "labels thresholds labels"]
    """``drop[c, n, d]``: what probe d loses when the latents of label c are taken out."""
    drop_random: Float[np.ndarray, "labels thresholds labels"]
    """The same for as many random latents that fire, mean over draws."""
    n_ablated: Int[np.ndarray, "labels thresholds"]
    """Latents taken out: the threshold, or fewer where fewer have an effect above 0."""
    n_fit: int
    n_scored: int
    split: str = ""

    def scores(self, *, random: bool = False) -> Float[np.ndarray, "labels thresholds"]:
        """Own drop minus the mean drop of the others, by label and threshold."""
        drop = self.drop_random if random else self.drop
        n = len(self.labels)
        own = drop[np.arange(n), :, np.arange(n)]
        known = np.isfinite(drop)
        others = (np.where(known, drop, 0).sum(2) - np.nan_to_num(own)) / np.maximum(
            known.sum(2) - 1, 1
        )
        return own - others

    def score(self, threshold: int, *, random: bool = False) -> Interval:
        """TPP at one threshold: mean over labels, interval over labels."""
        values = self.scores(random=random)[:, self.thresholds.index(threshold)]
        known = values[np.isfinite(values)]
        nan = float("nan")
        return bootstrap_mean(known) if len(known) else Interval(nan, nan, nan, 0)

    def to_frame(self) -> "pd.DataFrame":
        """One row per threshold, for the chosen latents and for random ones."""
        import pandas as pd

        table: list[dict[str, Any]] = []
        for latents in ("chosen", "random"):
            for i, n in enumerate(self.thresholds):
                s = self.score(n, random=latents == "random")
                table.append(
                    {"latents": latents, "threshold": n, "tpp": s.mean, "low": s.low,
                     "high": s.high, "n": s.n, "taken out, mean": self.n_ablated[:, i].mean()}
                )  # fmt: skip
        frame = pd.DataFrame(table)
        frame.attrs["units"] = {"tpp": "accuracy lost", "threshold": "latents"}
        frame.attrs["split"] = self.split
        return frame

    def summary(self) -> dict[str, float]:
        """TPP at every threshold."""
        return {f"TPP, {n} latents": self.score(n).mean for n in self.thresholds}

    def plot(self) -> "go.Figure":
        """TPP over the number of latents, beside random latents."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="threshold", y="tpp", color="latents", low="low", high="high",
            title="Targeted probe perturbation", log_x=True,
            subtitle=f"{len(self.labels)} labels, {self.n_scored} rows; random: as many latents",
        )  # fmt: skip


def tpp(
    acts: Any,
    rows: LabelledRows,
    x: Any,
    dictionary: Any,
    *,
    thresholds: Sequence[int] = THRESHOLDS,
    probes: LinearProbes | None = None,
    seed: int = 0,
    controls: bool = True,
) -> TargetedPerturbation:
    """Take out the latents that a label's probe uses, and see which probes lose accuracy.

    1. A logistic probe w_c per label on the activations of the fitting rows, classes weighted
       evenly.
    2. effect_j = relu(mean_pos a_j - mean_neg a_j) * (w_c . W_dec_j); the N largest above 0 are S.
    3. x' = x - sum_{j in S} a_j W_dec_j: the error term stays.
    4. TPP = mean over c of (accuracy lost by probe c - mean accuracy lost by the other probes),
       about 0.5 where a label's latents are all that its probe reads and no other probe does, 0
       where nothing is targeted.

    Accuracy gives both classes the same weight, which is what drawing equally many rows of each, as
    SAEBench does, has as its expectation. Labels of which a class is missing are NaN.
    Source: Karvonen et al. 2024 (arXiv:2411.18895), section 4.2. Control: as many random latents.

    Args:
        acts: latents ``[rows, d_sae]``.
        rows: two labels or more, see :func:`~lensbench.saes.label_rows`.
        x: the activations ``[rows, d_model]`` that were encoded.
        dictionary: something with ``W_dec``, or decoder rows ``[d_sae, d_model]``.
        thresholds: numbers of latents to take out.
        probes: of these labels on these activations, where they are fitted already.
        seed: of the random latents.
        controls: False leaves random latents out (NaN): most of the time.

    Raises:
        ConfigError: fewer than two labels with both classes in both halves, or bad thresholds.
        MismatchError: parts of different rows or dictionaries.
        NonFiniteError: NaN or infinity in them.

    Example:
        >>> found = saes.tpp(acts, rows, x, run, thresholds=(2, 5))
    """
    began = time.perf_counter()
    sizes, data = thresholds_of(thresholds), Probed.of(acts, x, dictionary, rows)
    fit, truth = rows.values[~rows.held], rows.values[rows.held]
    usable = [i for i in range(len(rows.names)) if _both(fit[:, i]) and _both(truth[:, i])]
    if len(usable) < 2:
        raise ConfigError(
            f"TPP compares labels: {len(usable)} of {len(rows.names)} have both classes in both "
            "halves, and it needs two"
        )
    probes = linear_probes(rows_of(x, len(rows.docs)), rows) if probes is None else probes
    probes.check(rows, data.x_fit.shape[1])
    n, many = len(rows.names), len(sizes)
    drop = np.full((n, many, n), np.nan)
    by_chance, taken = drop.copy(), np.zeros((n, many), np.int64)
    reads = data.W_dec @ np.nan_to_num(probes.weights).T  # what each probe reads of each latent
    logits, held = probes.logits(data.x_held), data.held.tocsc()
    share = np.stack([even(truth[:, i]) for i in usable], 1)
    share, at_all = share / share.sum(0), truth[:, usable]

    def accuracies(without: Int[np.ndarray, " n"]) -> Float[np.ndarray, " labels"]:
        left, out = logits - held[:, without] @ reads[without], np.full(n, np.nan)
        out[usable] = (((left[:, usable] > 0) == at_all) * share).sum(0)
        return out

    accuracy = accuracies(np.zeros(0, np.int64))
    for c in usable:
        effect = np.maximum(data.apart(fit[:, c]), 0) * reads[:, c]
        for at, size in enumerate(sizes):
            chosen = strongest(effect, size)
            taken[c, at] = len(chosen)
            if at and taken[c, at] == taken[c, at - 1]:  # no more have an effect
                drop[c, at], by_chance[c, at] = drop[c, at - 1], by_chance[c, at - 1]
                continue
            drop[c, at] = accuracy - accuracies(chosen)
            if controls:
                draws = [accuracies(some) for some in data.random(len(chosen), seed, c)]
                by_chance[c, at] = accuracy - np.mean(draws, 0)
    result = TargetedPerturbation(
        labels=rows.names,
        thresholds=sizes,
        accuracy=accuracy,
        drop=drop,
        drop_random=by_chance,
        n_ablated=taken,
        n_fit=len(fit),
        n_scored=len(truth),
        split=rows.split,
        config={"thresholds": list(sizes), "seed": seed},
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )
    if not controls:
        return result
    beside = {f"random latents, {s}": result.score(s, random=True).mean for s in sizes}
    return replace(result, controls=Controls(beside, "as many latents that fire"))


def _both(y: np.ndarray) -> bool:
    return bool(y.any() and not y.all())
