"""What an acceptance head is worth: calibration, and rounds of the stopping rule."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lensbench.results import Result
from lensbench.stats import pearson

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BINS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class AcceptanceReport(Result):
    """The head on drafts of held-out documents."""

    raw: Float[np.ndarray, " drafts"]
    """The weighted output."""
    chance: Float[np.ndarray, " drafts"]
    """The output without its weight: what calibration is about."""
    label: Float[np.ndarray, " drafts"]
    """min(1, p / q)."""
    draft_probability: Float[np.ndarray, " drafts"]
    """q of the drafted token, the plain guess beside the head."""
    doc: Int[np.ndarray, " drafts"]
    exit_layer: int
    n_layers: int
    thresholds: tuple[float, ...]
    rounds: Float[np.ndarray, "thresholds 3"]
    """Per start: drafted tokens and expected accepted ones, means; number of starts."""
    n_fit: int

    def to_frame(self) -> "pd.DataFrame":
        """Calibration curve: mean chance and mean label per tenth of the chance, empty ones out."""
        import pandas as pd

        place = np.minimum((self.chance * BINS).astype(int), BINS - 1)
        rows = [
            (b, self.chance[at].mean(), self.label[at].mean(), self.label[at].std(), int(at.sum()))
            for b in range(BINS)
            if (at := place == b).any()
        ]
        frame = pd.DataFrame(rows, columns=["bin", "chance", "accepted", "spread", "n"])
        frame.attrs["units"] = {"chance": "predicted", "accepted": "mean of min(1, p/q)"}
        return frame

    def rounds_frame(self) -> "pd.DataFrame":
        """One row per threshold of the stopping rule: expected tokens per round and their cost."""
        import pandas as pd

        drafted, accepted, starts = self.rounds.T
        frame = pd.DataFrame(
            {
                "threshold": self.thresholds,
                "drafted": drafted,
                "accepted": accepted,
                "tokens_per_round": accepted + 1,
                "serial_layers": (drafted * self.exit_layer + self.n_layers) / (accepted + 1),
                "n_starts": starts.astype(int),
            }
        )
        frame.attrs["units"] = {"serial_layers": "layers one after another, per token"}
        return frame

    def plot(self) -> "go.Figure":
        """Accepted against predicted; the diagonal is calibration."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="chance", y="accepted", hover_columns=("n",),
            title=f"Calibration of the acceptance head, exit after {self.exit_layer} layers",
            subtitle=f"{len(self.label)} drafts of {len(np.unique(self.doc))} held-out documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Calibration error, and correlations with the label of head and draft probability."""
        frame = self.to_frame()
        error = float(((frame.chance - frame.accepted).abs() * frame.n).sum() / frame.n.sum())
        return {
            "calibration_error": error,
            "correlation": pearson(self.chance, self.label),
            "draft_probability_correlation": pearson(self.draft_probability, self.label),
            "mean_acceptance": float(self.label.mean()),
        }


def stopped_rounds(
    raw: Float[np.ndarray, " drafts"],
    label: Float[np.ndarray, " drafts"],
    doc: Int[np.ndarray, " drafts"],
    threshold: float,
    least: int,
    most: int,
) -> tuple[float, float, int]:
    """Mean tokens drafted, mean expected accepted, and starts, of ``1 - prod a > h`` from anywhere.

    The token after which the rule holds is drafted and checked; a start stands where ``most``
    drafts of its document follow. Expected accepted tokens: sum over k of the product of the first
    k labels. NaN where no document is that long.
    """
    drafted, accepted = list[int](), list[float]()
    for number in np.unique(doc):
        a, p = raw[doc == number], label[doc == number]
        for start in range(len(a) - most + 1):
            reject = 1 - np.cumprod(a[start : start + most])
            past = np.flatnonzero(reject > threshold)
            length = max(least, int(past[0]) + 1) if len(past) else most
            drafted.append(length)
            accepted.append(float(np.cumprod(p[start : start + length]).sum()))
    if not drafted:
        return float("nan"), float("nan"), 0
    return float(np.mean(drafted)), float(np.mean(accepted)), len(drafted)
