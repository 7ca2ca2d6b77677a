"""Spurious correlation removal: do an attribute's latents, taken out, free a biased probe of it?"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.ablations import (
    THRESHOLDS,
    Probed,
    even,
    strongest,
    thresholds_of,
)
from lensbench.saes.evaluation.labels import LabelledRows
from lensbench.saes.evaluation.linear import fitted
from lensbench.saes.evaluation.sums import interval_of_ratio
from lensbench.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LEAST_GAP = 0.001


@dataclass(frozen=True, kw_only=True, eq=False)
class SpuriousRemoval(Result):
    """How much of a probe's bias goes away with the latents of the attribute it leans on.

    Direction 0 scores the first label and takes out latents of the second; direction 1 the reverse.
    """

    labels: tuple[str, str]
    thresholds: tuple[int, ...]
    biased: Float[np.ndarray, " 2"]
    """Accuracy of the biased probe on each label, all four combinations weighted evenly."""
    clean: Float[np.ndarray, " 2"]
    """Accuracy of a probe of that label that was fitted on all four combinations."""
    ablated: Float[np.ndarray, "2 thresholds"]
    """Accuracy of the biased probe, the other label's latents taken out."""
    ablated_random: Float[np.ndarray, "2 thresholds"]
    """The same with as many random latents that fire, mean over draws."""
    ablated_mean: Float[np.ndarray, "2 thresholds"]
    """The same as ``ablated``, but the latents held at their mean instead of taken out."""
    bounds: Float[np.ndarray, "2 thresholds 2"]
    """Bootstrap interval of S over documents, the weights of the rows held; NaN where S is 0
    because there is no gap."""
    n_ablated: Int[np.ndarray, "2 thresholds"]
    n_fit: int
    n_scored: int
    n_documents: int
    """Of the scored rows."""
    split: str = ""

    @property
    def direction(self) -> int:
        """The direction whose label the biased probe reads worse: the one that is reported."""
        return int(self.biased.argmin())

    @property
    def one_sided(self) -> float:
        """S of a probe that gives every row the same answer, in the reported direction.

        A score near it tells that the logits were moved over the boundary as a whole.
        """
        return float(self._shares(np.full((2, 1), 0.5))[self.direction, 0])

    def scores(
        self, *, random: bool = False, at_mean: bool = False
    ) -> Float[np.ndarray, "2 thresholds"]:
        """(ablated - biased) / (clean - biased); 0 where the gap is below 0.001."""
        taken = self.ablated_mean if at_mean else self.ablated
        return self._shares(self.ablated_random if random else taken)

    def _shares(self, accuracy: Float[np.ndarray, "2 n"]) -> Float[np.ndarray, "2 n"]:
        gap = (self.clean - self.biased)[:, None]
        gained = accuracy - self.biased[:, None]
        return np.where(gap < LEAST_GAP, 0.0, gained / np.where(gap < LEAST_GAP, 1.0, gap))

    def score(self, threshold: int, *, random: bool = False, at_mean: bool = False) -> float:
        """SCR at one threshold, in the reported direction."""
        at = self.thresholds.index(threshold)
        return float(self.scores(random=random, at_mean=at_mean)[self.direction, at])

    def interval(self, threshold: int) -> Interval:
        """SCR at one threshold with its interval over documents, in the reported direction."""
        low, high = self.bounds[self.direction, self.thresholds.index(threshold)]
        return Interval(self.score(threshold), float(low), float(high), self.n_documents)

    def to_frame(self) -> "pd.DataFrame":
        """One row per direction, threshold and choice of latents."""
        import pandas as pd

        kinds = {"chosen": (self.scores(), self.ablated),
                 "at their mean": (self.scores(at_mean=True), self.ablated_mean),
                 "random": (self.scores(random=True), self.ablated_random)}  # fmt: skip
        table = [
            {"label": self.labels[d], "taken out": self.labels[1 - d], "latents": latents,
             "threshold": size, "scr": score[d, i], "accuracy": accuracy[d, i],
             "biased": self.biased[d], "clean": self.clean[d], "n": self.n_scored,
             "n_ablated": int(self.n_ablated[d, i]), "reported": d == self.direction}
            for d in (0, 1)
            for latents, (score, accuracy) in kinds.items()
            for i, size in enumerate(self.thresholds)
        ]  # fmt: skip
        frame = pd.DataFrame(table)
        frame.attrs["units"] = {"scr": "share of the gap", "threshold": "latents"}
        frame.attrs["split"] = self.split
        return frame

    def summary(self) -> dict[str, float]:
        """SCR at every threshold in the reported direction."""
        return {f"SCR, {n} latents": self.score(n) for n in self.thresholds}

    def plot(self) -> "go.Figure":
        """SCR over the number of latents, beside random latents."""
        from lensbench.plots import lines

        return lines(
            self.to_frame().query("reported"), x="threshold", y="scr", color="latents", log_x=True,
            title="Spurious correlation removal",
            subtitle=f"probe of {self.labels[self.direction]}; {self.n_scored} rows",
        )  # fmt: skip


def scr(
    acts: Any,
    rows: LabelledRows,
    x: Any,
    dictionary: Any,
    labels: tuple[str, str],
    *,
    thresholds: Sequence[int] = THRESHOLDS,
    seed: int = 0,
) -> SpuriousRemoval:
    """Free a probe that was fitted where two labels always agree of the one it should not use.

    1. A biased logistic probe on the fitting rows where both labels agree, and a clean probe of
       each label on all fitting rows, the four combinations weighted evenly.
    2. effect_j = |(mean_pos a_j - mean_neg a_j) * (w . W_dec_j)|, w the clean probe of the label
       whose latents are taken out; the N largest are taken out, x' = x - sum a_j W_dec_j.
    3. S = (acc_ablated - acc_biased) / (acc_clean - acc_biased), accuracies of the other label on
       the scored rows, the four combinations weighted evenly. 1 is all of the bias, 0 none of it,
       below 0 worse; 0 where the gap is below 0.001.

    Both directions are computed. The reported one is that whose label the biased probe reads worse.
    The labels should be properties of the same rows that do not depend on each other, as a person's
    job and gender are. What is taken out also stood for something on average: without it all logits
    move, and where they cross the boundary together every row gets one answer and S is
    ``one_sided``. Latents held at their mean over the fitting rows (``at_mean``) move none.
    Source: Marks et al. 2024 (arXiv:2403.19647, SHIFT); Karvonen et al. 2024 (arXiv:2411.18895).
    Controls: as many random latents; a probe that gives every row the same answer.

    Args:
        acts: latents ``[rows, d_sae]``.
        rows: labels, see :func:`~lensbench.saes.label_rows`.
        x: the activations ``[rows, d_model]`` that were encoded.
        dictionary: something with ``W_dec``, or decoder rows ``[d_sae, d_model]``.
        labels: names of the two labels.
        thresholds: numbers of latents to take out.
        seed: of the random latents.

    Raises:
        ConfigError: one label twice, a combination that never occurs in a half, bad thresholds.
        UnknownNameError: a label that ``rows`` has not.
        MismatchError: parts of different rows or dictionaries.
        NonFiniteError: NaN or infinity in them.

    Example:
        >>> found = saes.scr(acts, rows, x, run, ("first", "second"), thresholds=(2, 5))
    """
    began = time.perf_counter()
    sizes, pair = thresholds_of(thresholds), crossed_pair(labels, rows)
    data = Probed.of(acts, x, dictionary, rows)
    fit, truth = [[y[half] for y in pair] for half in (~rows.held, rows.held)]
    agree, all_fit, all_held = fit[0] == fit[1], even(*fit), even(*truth)
    biased = fitted(data.x_fit[agree], fit[0][agree], balanced=True)[0]
    # Weights that sum to the number of rows: the penalty then stands as without weights.
    probes = [fitted(data.x_fit, y, weights=all_fit * len(y))[0] for y in fit]

    def right(logits: Float[np.ndarray, " rows"], of: int) -> Float[np.ndarray, " rows"]:
        return ((logits > 0) == truth[of]) * all_held  # weights sum to 1: its sum is the accuracy

    ablated, by_chance, at_mean = (np.zeros((2, len(sizes))) for _ in range(3))
    taken, bounds = np.zeros((2, len(sizes)), np.int64), np.full((2, len(sizes), 2), np.nan)
    start = [right(data.logits(biased), d) for d in (0, 1)]
    goal = [right(data.logits(probes[d]), d) for d in (0, 1)]
    means = np.asarray(data.fit.T @ all_fit).ravel()
    _, document = np.unique(rows.docs[rows.held], return_inverse=True)
    for d in (0, 1):
        other = 1 - d
        effect = np.abs(data.apart(fit[other], all_fit) * (data.W_dec @ probes[other].coef_[0]))
        gap = np.bincount(document, goal[d] - start[d])
        for i, size in enumerate(sizes):
            chosen = strongest(effect, size)
            taken[d, i] = len(chosen)
            left = data.logits(biased, chosen)
            freed = right(left, d)
            ablated[d, i] = freed.sum()
            held_at = means[chosen] @ (data.W_dec[chosen] @ biased.coef_[0])
            at_mean[d, i] = right(left + held_at, d).sum()
            draws = data.random(len(chosen), seed, d)
            by_chance[d, i] = np.mean([right(data.logits(biased, some), d).sum() for some in draws])
            if goal[d].sum() - start[d].sum() >= LEAST_GAP:  # else a rule says 0, not these rows
                gained = np.bincount(document, freed - start[d])
                between = interval_of_ratio(gained, gap, seed=seed)
                bounds[d, i] = between.low, between.high
    result = SpuriousRemoval(
        labels=(str(labels[0]), str(labels[1])),
        thresholds=sizes,
        biased=np.array([each.sum() for each in start]),
        clean=np.array([each.sum() for each in goal]),
        ablated=ablated,
        ablated_random=by_chance,
        ablated_mean=at_mean,
        bounds=bounds,
        n_ablated=taken,
        n_fit=len(fit[0]),
        n_scored=len(truth[0]),
        n_documents=int(document.max()) + 1,
        split=rows.split,
        config={"thresholds": list(sizes), "seed": seed},
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )
    beside = {f"random latents, {s}": result.score(s, random=True) for s in sizes}
    beside["every row answered alike"] = result.one_sided
    return replace(result, controls=Controls(beside, "as many latents that fire"))


def crossed_pair(labels: Any, rows: LabelledRows) -> list[Bool[np.ndarray, " rows"]]:
    """The columns of two labels, of which every combination must occur in both halves.

    Raises:
        ConfigError: not two different names, a label of one class, or a combination is missing.
        UnknownNameError: a label that ``rows`` has not.
    """
    if isinstance(labels, str) or len(labels) != 2 or labels[0] == labels[1]:
        raise ConfigError(f"labels must name two different labels, got {labels!r}")
    for name in labels:
        if name not in rows.names:
            raise UnknownNameError("label", str(name), known=rows.names)
    pair = [rows.values[:, rows.names.index(name)] for name in labels]
    for name, column in zip(labels, pair, strict=True):
        if column.all() or not column.any():
            raise ConfigError(
                f"label {name!r} is {bool(column[0])} on all {len(column):,} rows that are read; "
                "SCR needs rows with it and rows without: take another label, or more rows"
            )
    for half, what in ((~rows.held, "fitting"), (rows.held, "scored")):
        cells = {(bool(a), bool(b)) for a, b in zip(pair[0][half], pair[1][half], strict=True)}
        if len(cells) < 4:
            raise ConfigError(
                f"the {what} half has only {len(cells)} of the four combinations of "
                f"{labels[0]!r} and {labels[1]!r}; SCR needs all, add rows"
            )
    return pair
