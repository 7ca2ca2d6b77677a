"""Pictures of toy models: dimensionality, ``W^T W`` with b, and features as arrows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from lensbench import plots

if TYPE_CHECKING:
    import plotly.graph_objects as go


def dimensionality(frame: pd.DataFrame, ticks: Mapping[str, float]) -> go.Figure:
    """D_i of the best copies and of the linear controls, with the regular arrangements ticked."""
    shown = frame[frame["role"] != "copy"].assign(inverse=lambda f: 1 / (1 - f["sparsity"]))
    shown.attrs = frame.attrs
    figure = plots.scatter(
        shown,
        x="inverse",
        y="dimensionality",
        color="role",
        hover_columns=("sparsity", "feature", "norm"),
        labels={"inverse": "1 / (1 - sparsity)"},
        title="Feature dimensionality",
        subtitle="D_i = |W_i|^2 / sum_j (W_i_hat . W_j)^2 · "
        f"n = {len(shown):,} features, of the best copies by loss and the controls",
        log_x=True,
    )
    figure.update_yaxes(
        tickvals=list(ticks.values()),
        ticktext=[f"{value:.3g} {name}" for name, value in ticks.items()],
        range=[-0.05, 1.1],
    )
    return figure


def arrows(W: Float[np.ndarray, "2 n"], sparsity: float) -> go.Figure:
    """Every feature as a line from the origin to W_i."""
    ends = [
        (f"feature {i}", end * W[0, i], end * W[1, i]) for i in range(W.shape[1]) for end in (0, 1)
    ]
    frame = pd.DataFrame(ends, columns=["feature", "h_0", "h_1"])
    figure = plots.lines(
        frame, x="h_0", y="h_1", color="feature", title=f"Features at sparsity {sparsity:g}"
    )
    return figure.update_yaxes(scaleanchor="x")


def weights(W: Float[np.ndarray, "m n"], b: Float[np.ndarray, " n"], sparsity: float) -> go.Figure:
    """``W^T W`` and, in the last column, b."""
    cells = _cells(W, b)
    n = len(b)
    frame = pd.DataFrame(
        [(i, j, cells[i, j]) for i in range(n) for j in range(n + 1)],
        columns=["output", "input", "weight"],
    )
    return plots.heatmap(
        frame,
        x="input",
        y="output",
        value="weight",
        span=(-1.0, 1.0),
        diverging=True,
        x_labels={j: str(j) if j < n else "b" for j in range(n + 1)},
        title=f"W^T W and b at sparsity {sparsity:g}",
    )


def all_weights(
    W: Float[np.ndarray, "sparsities m n"],
    b: Float[np.ndarray, "sparsities n"],
    sparsity: Sequence[float],
) -> go.Figure:
    """One small map of |W^T W| and |b| per sparsity, side by side."""
    rows = [
        (0, g, j, i, abs(value))
        for g, (matrix, bias) in enumerate(zip(W, b, strict=True))
        for (i, j), value in np.ndenumerate(_cells(matrix, bias))
    ]
    frame = pd.DataFrame(rows, columns=["best copy", "sparsity", "input", "output", "weight"])
    figure = plots.mosaic(
        frame,
        row="best copy",
        column="sparsity",
        x="input",
        y="output",
        value="weight",
        hovers={(0, g): f"sparsity {s:g}" for g, s in enumerate(sparsity)},
        title="|W^T W| and, in the last column, |b|",
    )
    return figure.update_xaxes(ticktext=[f"{s:g}" for s in sparsity])


def _cells(W: Float[np.ndarray, "m n"], b: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n more"]:
    return np.concatenate([W.T @ W, b[:, None]], axis=1)
