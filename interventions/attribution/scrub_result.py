"""What causal scrubbing found: the loss that a hypothesis keeps, beside chance and a control."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lensbench.results import Result
from lensbench.stats import bounds

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

N_BOOT = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class ScrubResult(Result):
    """Loss of the model, of the scrubbed model, and of logits that belong to another prompt."""

    task: str
    metric: str
    unit: str
    tree: tuple[str, ...]
    """The claims in words, children indented."""
    model: Float[np.ndarray, " pairs"]
    scrubbed: Float[np.ndarray, "draws pairs"]
    random: Float[np.ndarray, "draws pairs"]
    shuffled: Float[np.ndarray, "draws pairs"]
    """The control: the same tree, features shuffled over prompts."""

    @property
    def recovered(self) -> float:
        """Share of the loss recovered; 1 as the model, 0 as random logits."""
        return float(self._share(self.scrubbed, np.ones((1, len(self.model))))[0])

    @property
    def control(self) -> float:
        """The same with shuffled features."""
        return float(self._share(self.shuffled, np.ones((1, len(self.model))))[0])

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % of :attr:`recovered`, prompts resampled; NaN with one prompt."""
        n = len(self.model)
        if n < 2:
            return float("nan"), float("nan")
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_BOOT)
        low, high = bounds(self._share(self.scrubbed, drawn))
        return float(low), float(high)

    def _share(self, scrubbed: np.ndarray, weights: np.ndarray) -> np.ndarray:
        random = self.random.mean(0)
        top, gap = weights @ (random - scrubbed.mean(0)), weights @ (random - self.model)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.abs(gap) > 1e-12, top / gap, np.nan)

    def to_frame(self) -> "pd.DataFrame":
        """The table of losses: model, scrubbed, shuffled features, random logits."""
        import pandas as pd

        low, high = self.interval()
        kinds = ("model", "scrubbed", "shuffled", "random")
        frame = pd.DataFrame(
            {"run": kinds, "loss": [float(getattr(self, k).mean()) for k in kinds],
             "recovered": [1.0, self.recovered, self.control, 0.0],
             "low": [np.nan, low, np.nan, np.nan], "high": [np.nan, high, np.nan, np.nan],
             "n": len(self.model)}
        )  # fmt: skip
        frame.attrs["units"] = {"loss": self.unit, "recovered": "0 = random, 1 = the model",
                                "n": "prompts"}  # fmt: skip
        return frame

    def summary(self) -> dict[str, float]:
        """Loss recovered with its interval and control, claims, prompts."""
        low, high = self.interval()
        return {"recovered": self.recovered, "low": low, "high": high,
                "recovered_shuffled": self.control, "loss_model": float(self.model.mean()),
                "loss_random": float(self.random.mean()), "claims": float(len(self.tree)),
                "prompts": float(len(self.model))}  # fmt: skip

    def plot(self) -> "go.Figure":
        """The losses as bars."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="run", y="loss", title=f"{self.task}: scrubbed loss",
            subtitle=f"n = {len(self.model)} prompts; recovered {self.recovered:.3f}; "
            f"control: {self.controls}",
        )  # fmt: skip
