"""Does a probe tell when the model will be wrong, and better than the model's own confidence?

Each score says how likely the answer is to be wrong; AUROC is the chance that a wrong answer gets a
higher score than a right one (0.5: none, 1: always). Differences are bootstrapped in pairs: each
resample draws groups of prompts and takes both scores on them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.results import Controls, Result
from lensbench.stats import auroc

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BASELINE = "1 - max probability"


@dataclass(frozen=True, kw_only=True, eq=False)
class FailureFlagging(Result):
    """AUROC of several scores for "the model is wrong", and their difference from a baseline."""

    names: tuple[str, ...]
    auroc: Float[np.ndarray, " scores"]
    low: Float[np.ndarray, " scores"]
    high: Float[np.ndarray, " scores"]
    gain: Float[np.ndarray, " scores"]
    """AUROC less that of the baseline."""
    gain_low: Float[np.ndarray, " scores"]
    gain_high: Float[np.ndarray, " scores"]
    baseline: str
    n_wrong: int
    n: int

    def beats_baseline(self, name: str) -> bool:
        """Whether the 95 % interval of the gain lies above zero."""
        if name not in self.names:
            raise ConfigError(f"no score {name!r}; there are {', '.join(self.names)}")
        return bool(self.gain_low[self.names.index(name)] > 0)

    def to_frame(self) -> "pd.DataFrame":
        """One row per score."""
        import pandas as pd

        frame = pd.DataFrame({
            "score": self.names, "auroc": self.auroc, "low": self.low, "high": self.high,
            "gain": self.gain, "gain_low": self.gain_low, "gain_high": self.gain_high,
            "wrong": self.n_wrong, "n": self.n,
        })  # fmt: skip
        frame.attrs["units"] = {"auroc": "AUROC", "gain": "AUROC", "n": "prompts"}
        return frame

    def plot(self) -> "go.Figure":
        """AUROC of every score."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="score", y="auroc", low="low", high="high",
            title="Who tells a wrong answer",
            subtitle=f"n = {self.n} answers, {self.n_wrong} of them wrong",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """AUROC of every score, and how many answers were wrong."""
        scores = {f"auroc {n}": float(v) for n, v in zip(self.names, self.auroc, strict=True)}
        return {**scores, "wrong": float(self.n_wrong), "prompts": float(self.n)}


def flag_failures(
    scores: dict[str, Float[np.ndarray, " n"]],
    wrong: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    baseline: str = BASELINE,
    n_boot: int = 1000,
    seed: int = 0,
) -> FailureFlagging:
    """AUROC of every score for ``wrong``, with paired intervals against ``baseline``.

    Resamples without a wrong or without a right answer are drawn again. The control is the
    baseline with its values shuffled over prompts.

    Raises:
        ConfigError: no score of that name, or scores that are not finite.
        NotEnoughDataError: fewer than five wrong or five right answers.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scores = {"1 - max probability": rng.random(40), "mine": rng.random(40)}
        >>> found = probes.flag_failures(scores, rng.random(40) > 0.5, np.arange(40), n_boot=50)
    """
    n_boot = whole_number("n_boot", n_boot, least=1)
    if baseline not in scores:
        raise ConfigError(f"no score {baseline!r} to compare with; got {', '.join(scores)}")
    bad = [name for name, v in scores.items() if not np.isfinite(v).all()]
    if bad:
        raise ConfigError(f"scores that are not finite: {', '.join(bad)}")
    n_wrong = int(wrong.sum())
    if min(n_wrong, len(wrong) - n_wrong) < 5:
        raise NotEnoughDataError(
            f"{n_wrong} of {len(wrong)} answers are wrong; at least five wrong and five right ones "
            "are needed. Take harder prompts, or an earlier checkpoint of the model"
        )
    table = np.stack(list(scores.values()))
    draws = _draws(table, wrong, groups, n_boot, seed)
    point = _aurocs(table, wrong)
    base = list(scores).index(baseline)
    gains = draws - draws[:, base : base + 1]
    shuffled = np.random.default_rng(seed + 1).permutation(table[base])
    quantile = lambda x, q: np.quantile(x, q, axis=0)  # noqa: E731 - one use, one line
    return FailureFlagging(
        names=tuple(scores), auroc=point, low=quantile(draws, 0.025), high=quantile(draws, 0.975),
        gain=point - point[base], gain_low=quantile(gains, 0.025),
        gain_high=quantile(gains, 0.975), baseline=baseline, n_wrong=n_wrong, n=len(wrong),
        config={"n_boot": n_boot, "seed": seed},
        controls=Controls({"shuffled": auroc(shuffled, wrong)}, "baseline shuffled over prompts"),
    )  # fmt: skip


def _aurocs(table: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return np.array([auroc(row, wrong) for row in table])


def _draws(
    table: np.ndarray, wrong: np.ndarray, groups: np.ndarray, n_boot: int, seed: int
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    _, place = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(place == g) for g in range(place.max() + 1)]
    found: list[np.ndarray] = []
    while len(found) < n_boot:
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[g] for g in drawn])
        if 0 < wrong[rows].sum() < len(rows):
            found.append(_aurocs(table[:, rows], wrong[rows]))
    return np.stack(found)
