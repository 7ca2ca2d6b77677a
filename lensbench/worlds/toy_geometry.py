"""The geometry of trained toy models: who is represented, and who shares a dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ABSENT = 0.05
"""Norm below which a feature counts as not represented; its dimensionality is 0."""
STICKY = {
    "ignored": 0.0,
    "square antiprism": 3 / 8,
    "pentagon": 2 / 5,
    "digon": 1 / 2,
    "triangle": 2 / 3,
    "tetrahedron": 3 / 4,
    "own dimension": 1.0,
}
"""Dimensionality of a feature in each regular arrangement (vertices share d dimensions: d / n)."""


def feature_dimensionality(W: Float[Tensor, "... m n"]) -> Float[Tensor, "... n"]:
    """Share of a dimension that each feature has: D_i = |W_i|^2 / sum_j (W_i_hat . W_j)^2.

    In [0, 1], and sum_i D_i <= rank W <= m (Cauchy-Schwarz against the leverage scores). Features
    with a norm below 0.05 have 0: their direction is noise.
    Source: Elhage et al. 2022, "The Geometry of Superposition".
    """
    norms = W.norm(dim=-2)
    hat = nn.functional.normalize(W, dim=-2)
    shared = (hat.mT @ W).square().sum(-1)
    return torch.where(norms < ABSENT, 0.0, norms.square() / shared.clamp_min(1e-30))


def superposition(W: Float[Tensor, "... m n"]) -> Float[Tensor, "... n"]:
    """How much the others lie along each feature: sum_{j != i} (W_i_hat . W_j)^2, 0 if orthogonal.

    Source: Elhage et al. 2022.
    """
    hat = nn.functional.normalize(W, dim=-2)
    return (hat.mT @ W).square().sum(-1) - W.norm(dim=-2).square()


def dimensions_per_feature(W: Float[Tensor, "*batch m n"]) -> Float[Tensor, " *batch"]:
    """D* = m / |W|_F^2: |W|_F^2 is about the number of represented features.

    Source: Elhage et al. 2022.
    """
    return W.shape[-2] / W.square().sum((-2, -1))


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyModels(Result):
    """Trained toy models: ``copies`` per sparsity, then one linear control per sparsity."""

    units: ClassVar[dict[str, str]] = {
        "norm": "length",
        "dimensionality": "dimensions per feature",
        "superposition": "squared length",
        "loss": "weighted squared error per row",
    }

    sparsity: tuple[float, ...]
    group: Int[np.ndarray, " instances"]
    """Index into ``sparsity``."""
    linear: Bool[np.ndarray, " instances"]
    """Instances without ReLU."""
    importance: Float[np.ndarray, "instances n"]
    W: Float[np.ndarray, "instances m n"]
    b: Float[np.ndarray, "instances n"]
    loss: Float[np.ndarray, " instances"]
    """On fresh rows, common to the instances of a sparsity."""

    @property
    def dimensionality(self) -> Float[np.ndarray, "instances n"]:
        """D_i of every instance."""
        return feature_dimensionality(torch.from_numpy(self.W)).numpy()

    def best(self, sparsity: float, *, control: bool = False) -> int:
        """Instance of the lowest loss at a sparsity; with ``control`` the linear one.

        Raises:
            UnknownNameError: a sparsity that was not trained.
        """
        if sparsity not in self.sparsity:
            raise UnknownNameError("sparsity", f"{sparsity}", known=[str(s) for s in self.sparsity])
        here = np.flatnonzero(self.group == self.sparsity.index(sparsity))
        if control:
            return int(here[-1])
        trained = here[:-1]
        return int(trained[np.argmin(self.loss[trained])])

    def to_frame(self) -> pd.DataFrame:
        """One row per instance and feature."""
        import pandas as pd

        instances, _, n = self.W.shape
        best = [self.best(s) for s in self.sparsity]
        last = len(self.W) - len(self.sparsity)
        W = torch.from_numpy(self.W)
        i = np.repeat(np.arange(instances), n)
        frame = pd.DataFrame(
            {
                "instance": i,
                "sparsity": np.array(self.sparsity)[self.group[i]],
                "role": np.where(
                    i >= last, "linear control", np.where(np.isin(i, best), "best", "copy")
                ),
                "feature": np.tile(np.arange(n), instances),
                "importance": self.importance.ravel(),
                "norm": W.norm(dim=1).numpy().ravel(),
                "dimensionality": self.dimensionality.ravel(),
                "superposition": superposition(W).numpy().ravel(),
                "bias": self.b.ravel(),
                "loss": self.loss[i],
            }
        )
        frame.attrs["units"] = dict(self.units)
        return frame

    def summary(self) -> dict[str, float]:
        """Loss, sum of D_i and D* of the best copy at every sparsity."""
        found: dict[str, float] = {}
        for s in self.sparsity:
            i = self.best(s)
            found[f"loss@{s:g}"] = float(self.loss[i])
            found[f"sum_dimensionality@{s:g}"] = float(self.dimensionality[i].sum())
            found[f"dimensions_per_feature@{s:g}"] = float(
                dimensions_per_feature(torch.from_numpy(self.W[i]))
            )
        return found

    def plot(
        self,
        kind: Literal["dimensionality", "weights", "arrows"] = "dimensionality",
        *,
        sparsity: float | None = None,
    ) -> go.Figure:
        """D_i against 1 / (1 - S), ``W^T W`` with b per sparsity, or the features as 2-D arrows.

        ``sparsity`` chooses one for ``weights`` (left out: all) and ``arrows`` (left out: largest).

        Raises:
            ConfigError: an unknown kind, or arrows of models that are not 2-D.
            UnknownNameError: a sparsity that was not trained.
        """
        from lensbench.worlds import toy_plots

        frame = self.to_frame()
        if kind == "dimensionality":
            return toy_plots.dimensionality(frame, STICKY)
        if kind == "arrows":
            if self.W.shape[1] != 2:
                raise ConfigError(f"arrows need d_hidden 2, these models have {self.W.shape[1]}")
            s = max(self.sparsity) if sparsity is None else sparsity
            return toy_plots.arrows(self.W[self.best(s)], s)
        if kind != "weights":
            raise UnknownNameError(
                "kind of plot", kind, known=("dimensionality", "weights", "arrows")
            )
        if sparsity is not None:
            i = self.best(sparsity)
            return toy_plots.weights(self.W[i], self.b[i], sparsity)
        best = [self.best(s) for s in self.sparsity]
        return toy_plots.all_weights(self.W[best], self.b[best], self.sparsity)
