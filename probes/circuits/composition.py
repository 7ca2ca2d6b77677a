"""How much each head reads of what each earlier head writes.

1. TransformerLens gives the scores of every pair of heads from the folded weights.
2. Control: pairs of Gaussian heads of the same shape, which compose by chance alone.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.models.transformer_lens.convert import lens_twin
from lensbench.models.transformer_lens.tool import load
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.models import Model

MODES = ("Q", "K", "V")
"""Whether the later head reads the earlier one's output in its queries, keys or values."""
_SUBTITLE = "score above the mean of Gaussian heads; heads are named layer.head"


@dataclass(frozen=True, kw_only=True, eq=False)
class CompositionScores(Result):
    """``||W_OV W||_F / (||W_OV||_F ||W||_F)`` for every earlier and later head; 0 to 1.

    ``W_OV`` is the earlier head's; ``W`` is the later head's ``W_QK`` (Q), its transpose (K) or its
    ``W_OV`` (V). Pairs that are not in order are NaN. ``random_mean`` and ``random_high`` (95 %
    quantile) are the scores of Gaussian heads: what is not above them says nothing.
    """

    scores: Float[np.ndarray, "modes layers heads layers heads"]
    """Axes: mode, layer and head that writes, layer and head that reads."""
    random_mean: Float[np.ndarray, " modes"]
    random_high: Float[np.ndarray, " modes"]
    n_random: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per mode and ordered pair of heads."""
        import pandas as pd

        where = np.argwhere(np.isfinite(self.scores))
        frame = pd.DataFrame(where, columns=["mode", "layer", "head", "to_layer", "to_head"])
        frame["score"] = self.scores[np.isfinite(self.scores)]
        frame["excess"] = frame["score"] - self.random_mean[frame["mode"]]
        frame["random_high"] = self.random_high[frame["mode"]]
        frame["n"] = self.n_random
        frame["mode"] = [MODES[i] for i in frame["mode"]]
        frame.attrs["units"] = {"score": "0 to 1", "excess": "-1 to 1", "n": "random pairs"}
        return frame

    def plot(self, mode: str | None = None) -> "go.Figure":
        """Excess over random heads, writer by reader: a panel per mode, or one mode alone."""
        from lensbench.probes.circuits.panels import side_by_side

        if mode is not None and mode not in MODES:
            raise ConfigError(f"mode must be Q, K or V, got {mode!r}")
        if mode is not None:
            return self._map(mode)
        return side_by_side(
            {f"{each}-composition": self._map(each) for each in MODES},
            title="Composition of heads", subtitle=self._told,
        )  # fmt: skip

    @property
    def _told(self) -> str:
        return f"{_SUBTITLE} · n = {self.n_random:,} random pairs"

    def _map(self, mode: str) -> "go.Figure":
        from lensbench.plots import heatmap
        from lensbench.probes.circuits.panels import label_cells

        frame, n = self.to_frame(), self.scores.shape[2]
        part = frame.loc[frame["mode"] == mode]
        part = part.assign(
            writes=part["layer"] * n + part["head"], reads=part["to_layer"] * n + part["to_head"]
        )
        part.attrs["units"] = frame.attrs["units"]
        top = float(
            np.abs(frame["excess"].to_numpy()).max(initial=0.0)
        )  # one range for all modes, so that they compare
        figure = heatmap(
            part, x="reads", y="writes", value="excess", diverging=True, span=(-top, top),
            unit=f"{-top:.2g} to {top:.2g}", title=f"{mode}-composition", subtitle=self._told,
            hover_columns=("score", "layer", "head", "to_layer", "to_head"),
            labels={"reads": "head that reads", "writes": "head that writes"},
            height=min(720, 220 + 16 * part["writes"].nunique()),
        )  # fmt: skip
        axes = (
            {int(i): f"{i // n}.{i % n}" for i in part[a].unique()} for a in ("reads", "writes")
        )
        return label_cells(figure, *axes).update_xaxes(tickangle=-90)

    def summary(self) -> dict[str, float]:
        """Largest score of each mode, and what random heads reach."""
        found: dict[str, float] = {}
        for i, mode in enumerate(MODES):
            found[f"{mode}_max"] = float(np.nanmax(self.scores[i], initial=0.0))
            found[f"{mode}_random_high"] = float(self.random_high[i])
        return found

    def strongest(self, mode: str = "K") -> tuple[tuple[int, int], tuple[int, int]]:
        """``((layer, head) that writes, (layer, head) that reads)`` of the largest score."""
        flat = np.nan_to_num(self.scores[MODES.index(mode)], nan=-1.0)
        a, b, c, d = (int(i) for i in np.unravel_index(flat.argmax(), flat.shape))
        return (a, b), (c, d)


def composition_scores(model: "Model", *, n_random: int = 200, seed: int = 0) -> CompositionScores:
    """Q-, K- and V-composition of all ordered pairs of heads, beside Gaussian heads.

    Norms' gains are folded in; biases, rotary angles and MLPs between the heads are left out. The
    product is of weights alone: a pair may score high and never be used.
    Source: Elhage et al. 2021, "A mathematical framework for transformer circuits".

    Raises:
        ConfigError: fewer than two layers, or attention without these matrices.

    Example:
        >>> found = probes.composition_scores(model, n_random=10)
    """
    start, lens = time.time(), lens_twin(model)
    if lens.n_layers < 2:
        raise ConfigError("composition needs two layers; this model has one")
    lens.head_weights(0)  # refuses attention that has no such matrices
    layers = torch.arange(lens.n_layers)
    ordered = (layers[:, None] < layers)[:, None, :, None]
    scores: list[np.ndarray] = []
    for mode in MODES:
        found: Any = lens.root.all_composition_scores(mode)
        table: Tensor = getattr(found, "scores", found).detach().float().cpu()
        scores.append(table.masked_fill(~ordered, float("nan")).numpy())
    chance = _random(lens.card.d_model, lens.card.d_head, n_random, seed)
    mean, high = chance.mean(1), np.quantile(chance, 0.95, axis=1)
    told = {f"random_{mode}": float(mean[i]) for i, mode in enumerate(MODES)}
    return CompositionScores(
        scores=np.stack(scores),
        random_mean=mean,
        random_high=high,
        n_random=n_random,
        config={"n_random": n_random, "seed": seed},
        controls=Controls(told, "mean score of Gaussian heads of the same shape"),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, device=str(lens.device), seconds=time.time() - start
        ),
    )


def _random(d_model: int, d_head: int, n: int, seed: int) -> np.ndarray:
    """Scores ``[modes, n]`` of pairs of heads whose weights are Gaussian."""
    factored = load("FactoredMatrix").FactoredMatrix
    score = load("utilities.matrix").composition_scores
    rng = torch.Generator().manual_seed(seed)

    def head() -> tuple[Tensor, Tensor]:
        return (
            torch.randn(d_model, d_head, generator=rng),
            torch.randn(d_head, d_model, generator=rng),
        )

    rows: list[list[float]] = []
    for _ in range(n):
        writer, reader = factored(*head()), factored(*head())
        # A product of independent Gaussians and its transpose are alike, and so are Q, K and V.
        rows.append([float(score(writer, right)) for right in (reader, reader.T, reader)])
    return np.asarray(rows).T
