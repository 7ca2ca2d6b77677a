"""What absorption found, row by row, and the labels it could not score."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.results import Result
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Absorption(Result):
    """Both measures for every row that was scored; labels that could not be are named with why."""

    labels: tuple[str, ...]
    probe_f1: Float[np.ndarray, " labels"]
    """F1 of the linear probe on the scored rows."""
    left_out: tuple[str, ...]
    """Why a label was not scored; empty for those that were."""
    main: tuple[tuple[int, ...], ...]
    """Latents of each label; more than one is a split."""
    main_f1: Float[np.ndarray, " labels"]
    """F1 on the fitting rows of a probe of the strongest latent alone."""
    row: Int[np.ndarray, " scored"]
    """Row (of all that were given) of each score."""
    doc: Int[np.ndarray, " scored"]
    label: Int[np.ndarray, " scored"]
    """Its label, by number."""
    fraction: Float[np.ndarray, " scored"]
    """Absorbed fraction, 0 to 1."""
    full: Bool[np.ndarray, " scored"]
    """Whether the label is absorbed altogether."""
    top_latent: Int[np.ndarray, " scored"]
    """The latent off the label's own that gives most to the probe's direction; -1 if none fires."""
    top_cosine: Float[np.ndarray, " scored"]
    """Its cosine with the probe's direction."""
    split: str = ""

    def fraction_of(self, label: str = "") -> Interval:
        """Mean absorbed fraction of a label (of all rows without), interval over documents."""
        return self._mean(self.fraction, label)

    def full_of(self, label: str = "") -> Interval:
        """Share of the rows that are fully absorbed."""
        return self._mean(self.full.astype(float), label)

    def _mean(self, values: Float[np.ndarray, " scored"], label: str) -> Interval:
        here = self.label == self.labels.index(label) if label else np.ones(len(values), bool)
        return bootstrap_mean(values[here], self.doc[here]) if here.any() else _NOTHING

    def to_frame(self) -> "pd.DataFrame":
        """One row per label: probe, latents, both rates with intervals, or why it is left out."""
        import pandas as pd

        table: list[dict[str, Any]] = []
        for i, name in enumerate(self.labels):
            part, full = self.fraction_of(name), self.full_of(name)
            table.append(
                {"label": name, "fraction": part.mean, "low": part.low, "high": part.high,
                 "full": full.mean, "full_low": full.low, "full_high": full.high, "n": part.n,
                 "rows": int((self.label == i).sum()), "probe_f1": self.probe_f1[i],
                 "main_f1": self.main_f1[i], "n_main": len(self.main[i]),
                 "main": " ".join(map(str, self.main[i])), "left out": self.left_out[i]}
            )  # fmt: skip
        frame = pd.DataFrame(table)
        frame.attrs["units"] = {"fraction": "share absorbed", "full": "share of rows"}
        frame.attrs["split"] = self.split
        return frame

    def rows_frame(self) -> "pd.DataFrame":
        """One row per scored row: what absorbed it."""
        import pandas as pd

        return pd.DataFrame(
            {
                "row": self.row,
                "doc": self.doc,
                "label": [self.labels[i] for i in self.label],
                "fraction": self.fraction,
                "full": self.full,
                "latent": self.top_latent,
                "cosine": self.top_cosine,
            }
        )

    def summary(self) -> dict[str, float]:
        """Means over labels that were scored, and latents per label."""
        scored = [name for name, why in zip(self.labels, self.left_out, strict=True) if not why]
        nan = float("nan")
        split = [len(m) for m, why in zip(self.main, self.left_out, strict=True) if not why]
        return {
            "absorbed fraction": _mean([self.fraction_of(n).mean for n in scored]),
            "fully absorbed": _mean([self.full_of(n).mean for n in scored]),
            "latents per label": float(np.mean(split)) if split else nan,
            "labels scored": float(len(scored)),
        }

    def plot(self) -> "go.Figure":
        """Absorbed fraction by label."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="label", y="fraction", low="low", high="high", title="Absorption",
            subtitle=f"{len(self.row)} rows; control: {self.controls}",
            hover_columns=["full", "n_main", "probe_f1"],
        )  # fmt: skip


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
