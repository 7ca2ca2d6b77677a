"""What a transplant gave: next tokens and text of every cell, with and without it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.probes.lenses.marked import marked
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNITS = {
    "top_prob": "probability",
    "top_prob_without": "probability",
    "kl": "KL(without ‖ with the state) [nats]",
    "p_with": "probability",
    "p_without": "probability",
    "relevancy": "|difference of probabilities|",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Transplant(Result):
    """Cells (source layer, source position) and what the target says with their state in it."""

    source_layers: Int[np.ndarray, " cells"]
    source_positions: Int[np.ndarray, " cells"]
    target_layers: Int[np.ndarray, " cells"]
    target_positions: tuple[int, ...]
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]
    top: tuple[tuple[str, ...], ...]
    """Most probable next tokens of every cell."""
    top_prob: Float[np.ndarray, "cells k"]
    top_prob_without: Float[np.ndarray, "cells k"]
    """Probability of the same tokens in the target as it is."""
    kl: Float[np.ndarray, " cells"]
    """KL(p_without || p_with) of the next token, nats: 0 where the transplant changes nothing."""
    plain_top: tuple[str, ...]
    """Most probable next tokens of the target as it is."""
    plain_prob: Float[np.ndarray, " k"]
    written: tuple[tuple[str, ...], ...] = ()
    """Tokens generated; empty without generation."""
    p_with: Float[np.ndarray, "cells steps"]
    p_without: Float[np.ndarray, "cells steps"]

    def texts(self) -> tuple[str, ...]:
        """Generated text of every cell."""
        return tuple("".join(row) for row in self.written)

    def relevancy(self) -> Float[np.ndarray, "cells steps"]:
        """|p_with - p_without| of every generated token; NaN after a text's end."""
        return np.abs(self.p_with - self.p_without)

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell; ``␣`` is a space of a token."""
        import pandas as pd

        columns: dict[str, Any] = {
            "layer": self.source_layers,
            "pos": self.source_positions,
            "token": marked(self.source_tokens[p] for p in self.source_positions),
            "target_layer": self.target_layers,
            "top": marked(row[0] for row in self.top),
            "top_prob": self.top_prob[:, 0],
            "top_prob_without": self.top_prob_without[:, 0],
            "kl": self.kl,
        }
        for i in range(1, self.top_prob.shape[1]):
            columns[f"top{i + 1}"] = marked(row[i] for row in self.top)
            columns[f"top{i + 1}_prob"] = self.top_prob[:, i]
        if self.written:
            columns["text"] = self.texts()
            columns |= {"p_with": _mean(self.p_with), "p_without": _mean(self.p_without),
                        "relevancy": _mean(self.relevancy())}  # fmt: skip
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = UNITS
        return frame

    def tokens_frame(self) -> "pd.DataFrame":
        """One row per generated token, with its relevancy."""
        import pandas as pd

        from lensbench.plots import visible

        rows: list[dict[str, Any]] = []
        for cell, words in enumerate(self.written):
            at = {"layer": self.source_layers[cell], "pos": self.source_positions[cell]}
            for step, word in enumerate(words):
                p, q = float(self.p_with[cell, step]), float(self.p_without[cell, step])
                rows.append({**at, "step": step, "token": visible(word), "p_with": p,
                             "p_without": q, "relevancy": abs(p - q)})  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = UNITS
        return frame

    def summary(self) -> dict[str, float]:
        """Cells, and means over them."""
        found = {
            "cells": float(len(self.top)),
            "top_prob": float(self.top_prob[:, 0].mean()),
            "top_prob_without": float(self.top_prob_without[:, 0].mean()),
            "kl_nats": float(self.kl.mean()),
        }
        if self.written:
            found["relevancy"] = float(np.nanmean(self.relevancy()))
        return found

    def plot(self) -> "go.Figure":
        """Source layers by source tokens; a cell says the next token, or the text."""
        from lensbench.plots import heatmap, visible

        frame = self.to_frame()
        value = "relevancy" if self.written else "top_prob"
        said = frame["text"] if self.written else frame["top"]
        frame = frame.assign(says=[visible(word) for word in said])
        tokens = [visible(word) for word in self.source_tokens]
        return heatmap(
            frame, x="pos", y="layer", value=value, text="says", span=(0.0, 1.0),
            x_labels=dict(enumerate(tokens)),
            hover_columns=("token", "says", "top_prob", "top_prob_without", "kl"),
            title="Transplant: what the target says with this state in it",
            subtitle=f"as it is it goes on with {visible(self.plain_top[0])} "
            f"({self.plain_prob[0]:.2f})",
            labels={"pos": "token of the source", "layer": "after block of the source",
                    "top_prob_without": "the same without the transplant"},
        )  # fmt: skip


def _mean(values: Float[np.ndarray, "cells steps"]) -> Float[np.ndarray, " cells"]:
    return np.nanmean(values, 1)
