"""What a lens reads at many places of one text: a row per site or component, a column per token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.probes.lenses.marked import marked
from lensbench.probes.lenses.measures import METRICS, prediction_depth
from lensbench.results import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CELLS = 14
"""Tokens up to which the cells of a figure have room for a word."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteLens(Result):
    """Places by tokens of one text; column ``i`` is the prediction made *at* token ``i``.

    A place is a site of the residual stream, what a block adds to it, or a component whose share
    of the logits is read with the final norm's denominator held (``reads``). ``n`` is one text.
    """

    columns_shown = ("place", "pos", "token", "target", "top", "top_prob",
                     "target_prob", "target_rank", "entropy", "kl_to_final")  # fmt: skip

    reads: str
    """``stream``, ``writes`` (what is added is among the places) or ``components``."""
    places: tuple[str, ...]
    layers: tuple[int, ...]
    """Block of each place; -1 outside the blocks."""
    positions: Int[np.ndarray, " tokens"]
    tokens: tuple[str, ...]
    targets: tuple[str, ...]
    """The token that follows each; empty where the text ends, and the target metrics are NaN."""
    words: tuple[str, ...]
    """The tokens that occur in ``top``, each once."""
    top: Int[np.ndarray, "places tokens k"]
    """The k most probable next tokens, as numbers into ``words``."""
    top_ids: Int[np.ndarray, "places tokens k"]
    top_prob: Float[np.ndarray, "places tokens k"]
    values: Float[np.ndarray, "metrics places tokens"]
    """Rows as in ``METRICS``; NaN where only the k best were asked for."""
    gap: float = 0.0
    """Components: largest KL of the model's prediction from that of their sum, nats."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per place and token: the metrics, the k best predictions; ``␣`` is a space."""
        import pandas as pd

        place, column = (a.ravel() for a in np.indices(self.top.shape[:2]))
        columns: dict[str, Any] = {
            "place": [self.places[p] for p in place],
            "order": place,
            "layer": np.asarray(self.layers)[place],
            "pos": self.positions[column],
            "token": marked(self.tokens[c] for c in column),
            "target": marked(self.targets[c] for c in column),
        }
        columns |= {name: self.values[i].ravel() for i, name in enumerate(METRICS)}
        for i in range(self.top.shape[2]):
            number = "" if i == 0 else str(i + 1)
            columns[f"top{number}"] = marked(self.words[w] for w in self.top[:, :, i].ravel())
            columns[f"top{number}_prob"] = self.top_prob[:, :, i].ravel()
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {**METRICS, "top_prob": "probability"}
        return frame

    def depth(self) -> Int[np.ndarray, " tokens"]:
        """Prediction depth of every token: the row from which on the best token is the final one.

        Raises:
            ConfigError: of what is added, which is no step on a way, or without the metrics.
        """
        if self.reads != "stream" or np.isnan(self.values).all():
            raise ConfigError("prediction depth is that of the residual stream with its metrics: "
                              "use site_lens(..., metrics=True)")  # fmt: skip
        return prediction_depth(self.values[list(METRICS).index("agreement")])

    def plot(self, metric: str = "kl_to_final") -> "go.Figure":
        """Heat map of one metric; of components it is best read on a few tokens."""
        from lensbench.plots import heatmap, visible

        if metric not in (*METRICS, "top_prob"):
            raise UnknownNameError("lens metric", metric, known=(*METRICS, "top_prob"))
        frame = self.to_frame()
        units = METRICS.get(metric, "probability")
        figure = heatmap(
            frame, x="pos", y="order", value=metric, unit=units,
            text="top" if len(self.tokens) <= CELLS else None, span=self._span(metric),
            x_labels=dict(zip(self.positions.tolist(), map(visible, self.tokens), strict=True)),
            hover_columns=("token", "target", "top", "top_prob"),
            title="Logit lens of single components" if self.reads == "components" else "Logit lens",
            subtitle=f"n = 1 text, {len(self.tokens)} tokens",
            labels={"pos": "token at which the prediction is made", "order": "read at"},
        )  # fmt: skip
        rows = list(range(len(self.places)))
        return figure.update_yaxes(tickmode="array", tickvals=rows, ticktext=list(self.places))

    def _span(self, metric: str) -> tuple[float, float] | None:
        """One range of colours for every text of a model; nats end at those of an even guess."""
        if metric in ("top_prob", "target_prob", "agreement"):
            return 0.0, 1.0
        size = float(self.provenance.model.get("d_vocab") or 0)
        if not size:  # made by hand: the range is that of the cells, and the figure says so
            return None
        return (1.0, size) if metric == "target_rank" else (0.0, float(np.log(size)))

    def summary(self) -> dict[str, float]:
        """Places and tokens; of the stream the mean depth, of components the gap of their sum."""
        found = {"places": float(len(self.places)), "tokens": float(len(self.tokens))}
        if self.reads == "components":
            return {**found, "gap": self.gap}
        if self.reads != "stream" or np.isnan(self.values).all():
            return found
        return {**found, "prediction_depth_mean": float(self.depth().mean())}


def numbered(
    ids: Int[np.ndarray, "places tokens k"], d_vocab: int
) -> tuple[list[int], Int[np.ndarray, "places tokens k"]]:
    """The ids that occur, and each id as a number among them."""
    occurs = np.zeros(d_vocab, dtype=bool)
    occurs[ids.ravel()] = True
    number = np.cumsum(occurs, dtype=np.int32) - 1
    return np.flatnonzero(occurs).tolist(), number[ids]
