"""What a causal basis is, and what the model says of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class CausalBasis(Result):
    """Orthonormal directions of one layer, ordered by what ablating each does to a lens."""

    layer: int
    vectors: Float[np.ndarray, "k d_model"]
    energies: Float[np.ndarray, " k"]
    """Influence of each: KL of the lens' prediction, nats."""
    random: Float[np.ndarray, " k"]
    """The control: the same of random orthonormal directions."""
    mean: Float[np.ndarray, " d_model"]
    """What an ablated coordinate is set to."""
    n_tokens: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per direction and kind (``basis``, or the control ``random``)."""
        import pandas as pd

        n = np.arange(1, len(self.energies) + 1)
        parts = {"basis": self.energies, "random": np.sort(self.random)[::-1]}
        frame = pd.concat([
            pd.DataFrame({"direction": n, "kind": kind, "influence": values, "n": self.n_tokens})
            for kind, values in parts.items()
        ], ignore_index=True)  # fmt: skip
        frame.attrs["units"] = {"influence": "nats", "n": "tokens"}
        return frame

    def plot(self) -> "go.Figure":
        """Influence by rank, beside random directions."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="direction", y="influence", color="kind",
            title=f"Causal basis of layer {self.layer}", subtitle=f"{self.n_tokens:,} tokens",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """The largest influence, that of all together, and the mean of random directions."""
        return {
            "largest_nats": float(self.energies[0]),
            "sum_nats": float(self.energies.sum()),
            "random_mean_nats": float(self.random.mean()),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class BasisCheck(Result):
    """Subspaces of a causal basis ablated in the model and in the lens, beside random ones."""

    layer: int
    sizes: tuple[int, ...]
    model: Float[np.ndarray, " sizes"]
    """KL of the model's own prediction, nats."""
    lens: Float[np.ndarray, " sizes"]
    random_model: Float[np.ndarray, "draws sizes"]
    random_lens: Float[np.ndarray, "draws sizes"]
    n_tokens: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per size, kind of subspace and whose prediction."""
        import pandas as pd

        rows = [
            {"dimensions": size, "kind": kind, "prediction": whose, "kl": float(values[i]),
             "n": self.n_tokens}
            for kind, pair in {
                "basis": {"model": self.model, "lens": self.lens},
                "random": {"model": self.random_model.mean(0), "lens": self.random_lens.mean(0)},
            }.items()
            for whose, values in pair.items()
            for i, size in enumerate(self.sizes)
        ]  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {"kl": "KL(clean ‖ ablated) [nats]", "n": "tokens"}
        return frame

    def plot(self) -> "go.Figure":
        """KL by number of ablated directions."""
        from lensbench.plots import lines

        frame = self.to_frame()
        frame["ablated"] = frame["kind"] + " directions, " + frame["prediction"]
        return lines(
            frame, x="dimensions", y="kl", color="ablated",
            title=f"Ablation of the causal basis of layer {self.layer}",
            subtitle=f"{self.n_tokens:,} tokens; random: mean of {len(self.random_model)} draws",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """The largest subspace: KL of model and lens, and of random ones."""
        return {
            "dimensions": float(self.sizes[-1]),
            "model_nats": float(self.model[-1]),
            "lens_nats": float(self.lens[-1]),
            "random_model_nats": float(self.random_model[:, -1].mean()),
        }
