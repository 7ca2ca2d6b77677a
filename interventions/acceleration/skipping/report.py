"""What routes cost: how far the tokens of a text move when layers are left out or swapped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import UnknownNameError
from lensbench.results import Result
from lensbench.stats import bootstrap_sums, spearman

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class RouteReport(Result):
    """Teacher-forced damage of every route: divergence, agreement and loss beside the full model's.

    Means over tokens; intervals are 95 % percentile bootstraps over documents.
    """

    routes: tuple[str, ...]
    layers: Float[np.ndarray, " routes"]
    """Blocks run per token."""
    n_layers: int
    tokens: Int[np.ndarray, " documents"]
    """Predicted tokens per document."""
    kl: Float[np.ndarray, "routes documents"]
    """Sum over tokens of KL(full || route), nats."""
    agreed: Float[np.ndarray, "routes documents"]
    """Tokens whose largest logit is the full model's."""
    loss: Float[np.ndarray, "routes documents"]
    """Sum of the next-token cross-entropy, nats."""
    full_loss: Float[np.ndarray, " documents"]

    def of(self, route: str) -> dict[str, float]:
        """The numbers of one route.

        Raises:
            UnknownNameError: no such route.
        """
        if route not in self.routes:
            raise UnknownNameError("route", route, known=self.routes)
        return self.to_frame().set_index("route").loc[route].to_dict()

    def to_frame(self) -> "pd.DataFrame":
        """One row per route."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "route": self.routes,
                "layers": self.layers,
                "kl": self._mean(self.kl),
                "agreement": self._mean(self.agreed),
                "perplexity": np.exp(self._mean(self.loss)),
                "full_perplexity": np.exp(self.full_loss.sum() / self.tokens.sum()),
                "n_documents": len(self.tokens),
                "n_tokens": int(self.tokens.sum()),
            }
        )
        for name, values in (("kl", self.kl), ("agreement", self.agreed)):
            _, low, high = bootstrap_sums(np.divide, values, self.tokens)
            frame[f"{name}_low"], frame[f"{name}_high"] = low, high
        frame.attrs["units"] = {
            "layers": "blocks per token",
            "kl": "KL(full ‖ route) [nats]",
            "agreement": "share of tokens",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Agreement of every route against the layers it runs."""
        from lensbench.plots import scatter

        return scatter(
            self.to_frame(),
            x="layers",
            y="agreement",
            text="route",
            low="agreement_low",
            high="agreement_high",
            front="max",
            title="Agreement with the full model by layers run",
            subtitle="share of tokens with the same largest logit; 95 % over "
            f"n = {len(self.tokens)} documents",
        )

    def summary(self) -> dict[str, float]:
        """Agreement of the least and the most harmful route."""
        found = self._mean(self.agreed)
        return {"best_agreement": float(found.max()), "worst_agreement": float(found.min())}

    def rank_correlation(self, values: dict[str, float], by: str = "kl") -> float:
        """Spearman correlation of a guess per route (such as block influence) with its damage.

        Raises:
            UnknownNameError: a guess for a route that was not run, or a measure there is not.
        """
        frame = self.to_frame().set_index("route")
        for name in values:
            if name not in frame.index:
                raise UnknownNameError("route", name, known=self.routes)
        if by not in ("kl", "agreement", "perplexity"):
            raise UnknownNameError("measure", by, known=("kl", "agreement", "perplexity"))
        names = list(values)
        return spearman(np.array([values[n] for n in names]), frame.loc[names, by].to_numpy())

    def _mean(self, sums: np.ndarray) -> np.ndarray:
        return sums.sum(-1) / self.tokens.sum()
