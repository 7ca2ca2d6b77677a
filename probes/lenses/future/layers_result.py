"""What one state says in every layer of a prompt, beside the same cells with other vectors."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lensbench.errors import UnknownNameError
from lensbench.probes.lenses.marked import marked
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

KINDS = ("state", "mean", "random")
"""What is put: the state itself, and its controls."""
VIEWS = {
    "prob": "Probability of the scored token",
    "above": "What exceeds every control",
    "top_prob": "Probability of the best token",
    "kl": "KL(without ‖ with the state)",
}
KL = "KL(without ‖ with the state) [nats]"
UNITS = {
    "prob": "probability", "above": "difference of probabilities", "top_prob": "probability",
    **dict.fromkeys(("kl", "kl_mean", "kl_random"), KL),
    **{f"prob_{name}": "probability" for name in ("mean", "random", "without", "lens")},
}  # fmt: skip
MOST_WORDS = 600
"""Cells up to which each says its best token."""
_LETTERS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class TransplantLayers(Result):
    """Source layers by target layers; a control is NaN where the text has no other token."""

    layers: tuple[int, ...]
    into: tuple[int, ...]
    position: int
    """Token whose state it is."""
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    target_positions: tuple[int, ...]
    scored: str
    top: tuple[tuple[tuple[tuple[str, ...], ...], ...], ...]
    """By what is put, source layer, target layer and rank; of random states those of the first."""
    top_prob: Float[np.ndarray, "kinds layers into k"]
    prob: Float[np.ndarray, "kinds layers into"]
    """p(scored)."""
    kl: Float[np.ndarray, "kinds layers into"]
    """KL(p_without || p_with), nats."""
    lens_top: tuple[tuple[str, ...], ...]
    """What the logit lens reads from the state itself, by source layer."""
    lens_top_prob: Float[np.ndarray, "layers k"]
    lens_prob: Float[np.ndarray, " layers"]
    plain_top: tuple[str, ...]
    """What the target says as it is."""
    plain_top_prob: Float[np.ndarray, " k"]
    plain_prob: float

    def controlled(self) -> "TransplantLayers":
        """The same with its controls named."""
        means = {kind: float(self.prob[i].mean()) for i, kind in enumerate(KINDS) if i}
        values = {f"{kind}_state": v for kind, v in means.items() if np.isfinite(v)}
        note = f"mean probability of {self.scored!r} over all cells"
        return replace(self, controls=Controls({**values, "no_state": self.plain_prob}, note=note))

    @property
    def has_mean(self) -> bool:
        """Whether the text has other tokens, whose mean state is a control."""
        return bool(np.isfinite(self.prob[1]).all())

    def above(self) -> Float[np.ndarray, "layers into"]:
        """p(scored) with the state, less the largest of the controls of the same cell."""
        rivals = np.append(self.prob[1:], np.full_like(self.prob[:1], self.plain_prob), 0)
        return self.prob[0] - np.nanmax(rivals, 0)

    def to_frame(self) -> "pd.DataFrame":
        """One row per source layer and target layer; ``␣`` is a space."""
        import pandas as pd

        layer, into = (a.ravel() for a in np.indices(self.prob.shape[1:]))
        best = self.top[0]
        columns: dict[str, Any] = {
            "layer": np.array(self.layers)[layer],
            "into": np.array(self.into)[into],
            "top": marked(cell[0] for row in best for cell in row),
            "top_prob": self.top_prob[0, :, :, 0].ravel(),
            "prob": self.prob[0].ravel(),
            "prob_mean": self.prob[1].ravel(),
            "prob_random": self.prob[2].ravel(),
            "prob_without": np.full(len(layer), self.plain_prob),
            "prob_lens": self.lens_prob[layer],
            "above": self.above().ravel(),
            "kl": self.kl[0].ravel(),
            "kl_mean": self.kl[1].ravel(),
            "kl_random": self.kl[2].ravel(),
        }
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = UNITS
        return frame

    def at(self, layer: int, into: int) -> "pd.DataFrame":
        """One cell: what each reading says, its best tokens first, one row per reading.

        Raises:
            UnknownNameError: a layer that was not read, or not put into.
        """
        import pandas as pd

        for what, one, known in (("source layer", layer, self.layers),
                                 ("target layer", into, self.into)):  # fmt: skip
            if one not in known:
                raise UnknownNameError(what, str(one), known=[str(n) for n in known])
        i, j = self.layers.index(layer), self.into.index(into)
        rows = [
            (f"{name} state", self.top[n][i][j], self.top_prob[n, i, j], self.prob[n, i, j],
             self.kl[n, i, j])
            for n, name in enumerate(("this", "mean", "random"))
            if np.isfinite(self.prob[n, i, j])
        ]  # fmt: skip
        rows += [("no state", self.plain_top, self.plain_top_prob, self.plain_prob, 0.0),
                 ("logit lens of this state", self.lens_top[i], self.lens_top_prob[i],
                  self.lens_prob[i], float("nan"))]  # fmt: skip
        columns: dict[str, Any] = {
            "reading": [row[0] for row in rows],
            "prob": [float(row[3]) for row in rows],
            "kl": [float(row[4]) for row in rows],
        }
        for rank in range(len(self.plain_top)):
            columns[f"top{rank + 1}"] = marked(row[1][rank] for row in rows)
            columns[f"top{rank + 1}_prob"] = [float(row[2][rank]) for row in rows]
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {"prob": f"probability of {self.scored!r}", "kl": KL}
        return frame

    def summary(self) -> dict[str, float]:
        """Cells, the best one, and what its controls say."""
        where = np.unravel_index(int(self.above().argmax()), self.prob.shape[1:])
        rivals = {f"{kind}_state": float(self.prob[i][where]) for i, kind in enumerate(KINDS) if i}
        return {
            "cells": float(self.prob[0].size),
            "best_layer": float(self.layers[where[0]]),
            "best_into": float(self.into[where[1]]),
            "prob": float(self.prob[0][where]),
            **{name: value for name, value in rivals.items() if np.isfinite(value)},
            "no_state": self.plain_prob,
        }

    def plot(self, view: str = "prob") -> "go.Figure":
        """Source layers by target layers; a cell says its best token.

        Raises:
            UnknownNameError: another view than ``VIEWS``.
        """
        from lensbench.plots import heatmap, visible

        if view not in VIEWS:
            raise UnknownNameError("view", view, known=tuple(VIEWS))
        frame = self.to_frame()
        cut = [w if len(w) <= _LETTERS else f"{w[: _LETTERS - 1]}…" for w in frame["top"]]
        frame = frame.assign(word=cut)
        largest = float(np.nanmax(self.kl))
        span = {"above": (-1.0, 1.0), "kl": (0.0, max(largest, 1e-6))}.get(view, (0.0, 1.0))
        few = len(frame) <= MOST_WORDS
        ends = f"; colours 0 to {largest:.3g}, the largest of this state and its controls"
        figure = heatmap(
            frame, x="into", y="layer", value=view, text="word" if few else None, span=span,
            diverging=view == "above",
            hover_columns=("top", "top_prob", "prob", "prob_mean", "prob_random", "prob_without"),
            title=f"{VIEWS[view]}: {visible(self.scored)}" if view in ("prob", "above")
            else VIEWS[view],
            subtitle=f"n = 1 state, {len(frame)} cells"
            + ("; cell: most probable next token" if few else "") + (ends if view == "kl" else ""),
            labels={"into": "put in after block (of the prompt)",
                    "layer": "taken after block (of the text)", "above": "beyond controls",
                    "top": "says", "prob": "p(scored)",
                    "prob_mean": "the same, mean state", "prob_random": "the same, random states",
                    "prob_without": "the same, no state"},
        )  # fmt: skip
        if len(self.into) <= 24:
            figure.update_xaxes(dtick=1)
        return figure
