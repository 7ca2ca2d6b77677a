"""A tuned lens beside the logit lens on documents it was not trained on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lensbench import provenance
from lensbench.errors import UnknownNameError
from lensbench.probes.lenses.logit import LensTrajectory, logit_lens
from lensbench.probes.lenses.measures import METRICS
from lensbench.probes.lenses.tuned.lens import TunedLens
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.store import ActivationStore


@dataclass(frozen=True, kw_only=True, eq=False)
class LensComparison(Result):
    """The same tokens through the logit lens and a tuned one; intervals over documents.

    The control of each is its reading of other tokens' states: a lens that had learnt which
    prediction is likely whatever the state would do as well there.
    """

    layers: tuple[int, ...]
    logit: LensTrajectory
    tuned: LensTrajectory
    train_loss: Float[np.ndarray, "steps layers"]
    """KL of each map of the lens at each training step, nats; empty where it is not known."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per lens, metric, layer and kind of state."""
        import pandas as pd

        both = {"logit lens": self.logit, "tuned lens": self.tuned}
        frame = pd.concat([r.to_frame().assign(lens=name) for name, r in both.items()])
        frame.attrs["units"] = {"value": "see metric", "n": "documents"}
        return frame.reset_index(drop=True)

    def kl(self, lens: str = "tuned", *, shuffled: bool = False) -> Float[np.ndarray, " layers"]:
        """Mean KL to the final prediction per layer (nats), of real or of shuffled states.

        Raises:
            UnknownNameError: neither ``tuned`` nor ``logit``.
        """
        if lens not in ("tuned", "logit"):
            raise UnknownNameError("lens", lens, known=("tuned", "logit"))
        found = self.tuned if lens == "tuned" else self.logit
        values = found.shuffled if shuffled else found.mean
        return values[list(METRICS).index("kl_to_final")]

    def plot(self, metric: str = "kl_to_final") -> "go.Figure":
        """One metric of both lenses over layers, beside the shuffled states of the tuned one."""
        from lensbench.plots import lines

        if metric not in METRICS:
            raise UnknownNameError("lens metric", metric, known=tuple(METRICS))
        frame = self.to_frame()
        shown = (frame["metric"] == metric) & (
            (frame["states"] == "model") | (frame["lens"] == "tuned lens")
        )
        part = frame.loc[shown].assign(**{metric: lambda f: f["value"]})
        shuffled = part["states"] == "shuffled"
        part["read"] = part["lens"].where(~shuffled, part["lens"] + ", shuffled states")
        part.attrs["units"] = {metric: METRICS[metric], "n": "documents"}
        return lines(
            part, x="layer", y=metric, color="read", low="low", high="high",
            title="Tuned lens beside the logit lens",
            subtitle=f"{self.tuned.n_tokens:,} tokens of {self.tuned.n_docs:,} documents",
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """KL to the final prediction, mean over the layers before the last."""
        return {
            "kl_logit_nats": float(self.kl("logit")[:-1].mean()),
            "kl_tuned_nats": float(self.kl("tuned")[:-1].mean()),
            "kl_tuned_shuffled_nats": float(self.kl("tuned", shuffled=True)[:-1].mean()),
            "layers_better": float((self.kl("tuned") < self.kl("logit"))[:-1].sum()),
            "layers": float(len(self.layers) - 1),
        }


def compare_lenses(
    store: "ActivationStore",
    model: "Model",
    lens: TunedLens,
    *,
    docs: tuple[int, int] | None = None,
    max_tokens: int = 5_000,
    seed: int = 0,
) -> LensComparison:
    """KL to the final prediction, entropy, agreement ... of both lenses on the same tokens.

    ``docs`` ``(a, b)`` are the documents read (``tuned.held_out(store, share)`` names those that
    training left alone); the last layer is the model itself in both.

    Raises:
        MissingDataError, MismatchError, ConfigError: as of :func:`logit_lens`.

    Example:
        >>> both = probes.compare_lenses(store, model, tuned, docs=(90, 120), max_tokens=300)
    """
    tuned = logit_lens(store, model, lens, docs=docs, max_tokens=max_tokens, seed=seed)
    logit = logit_lens(store, model, docs=docs, max_tokens=max_tokens, seed=seed)
    row = list(METRICS).index("kl_to_final")
    middle = len(tuned.layers) // 2
    return LensComparison(
        layers=tuned.layers,
        logit=logit,
        tuned=tuned,
        train_loss=np.asarray(lens.losses, np.float64),
        config={"docs": docs, "max_tokens": max_tokens, "seed": seed, "lens": lens.settings},
        controls=Controls(
            {"shuffled_states": float(tuned.shuffled[row, middle])},
            note=f"KL(final ‖ this layer) [nats] of the tuned lens at layer "
            f"{tuned.layers[middle]}, states of others",
        ),
        provenance=provenance.record(model=vars(model.card), seed=seed, store=store),
    )
