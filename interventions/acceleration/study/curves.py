"""What confidence is worth: how often a sure layer is right, and what a threshold buys.

Both are read off the lens table, of new tokens only; intervals resample documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.acceleration.study.lens_table import CONFIDENCES, LensTable
from lensbench.interventions.acceleration.study.simulate_exits import exit_layers, exit_quality
from lensbench.results import Controls, Result
from lensbench.stats import bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(21))
_SWEPT = ("layers", "agreement", "kl", "cross_entropy")
_KEPT = (0.9, 0.95, 0.99)
"""Levels of agreement for which a notebook shows thresholds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ThresholdSweep(Result):
    """Layers, agreement, KL and cross entropy of tokens that leave at a threshold, per measure.

    Example:
        >>> found = acceleration.threshold_sweep(acceleration.lens_table(own, early))
        >>> figure = found.plot()
    """

    measures: tuple[str, ...]
    thresholds: Float[np.ndarray, " thresholds"]
    mean: Float[np.ndarray, "measures thresholds 4"]
    """Layers per new token, agreement with the full model, KL and cross entropy of the text."""
    low: Float[np.ndarray, "measures thresholds 4"]
    high: Float[np.ndarray, "measures thresholds 4"]
    n_docs: int

    def to_frame(self) -> "pd.DataFrame":
        """One row per measure and threshold."""
        import pandas as pd

        m, t = (i.ravel() for i in np.indices(self.mean.shape[:2]))
        frame = pd.DataFrame(
            {"measure": [self.measures[i] for i in m], "threshold": self.thresholds[t]}
        )
        for k, name in enumerate(_SWEPT):
            frame[name] = self.mean[m, t, k]
            frame[f"{name}_low"], frame[f"{name}_high"] = self.low[m, t, k], self.high[m, t, k]
        frame["n"] = self.n_docs
        frame.attrs["units"] = {
            "layers": "layers per new token", "agreement": "share of tokens",
            "kl": "KL(full ‖ early exit) [nats]",
            "cross_entropy": "nats", "n": "documents",
        }  # fmt: skip
        return frame

    def _html_body(self) -> str:
        """Of every measure the threshold with the fewest layers that keeps so much agreement."""
        import pandas as pd

        from lensbench.plots.tables import html_table

        frame = self.to_frame()
        best = [
            {"keep": share, **frame.loc[some["layers"].idxmin()].to_dict()}
            for share in _KEPT
            for _, some in frame.loc[frame["agreement"] >= share].groupby("measure", sort=False)
        ]
        columns = ["measure", "threshold", "layers", "layers_low", "layers_high", "agreement",
                   "agreement_low", "agreement_high", "kl", "n"]  # fmt: skip
        shown = pd.DataFrame(best, columns=["keep", *columns])
        shown.attrs["units"] = {**frame.attrs["units"], "keep": "agreement asked for"}
        told = (
            "Of each measure the threshold with the fewest layers; to_frame() has all thresholds."
        )
        return html_table(shown, caption=told)

    def layers_at(self, agreement: float) -> dict[str, float]:
        """Fewest layers per token at which each measure agrees at least so often; NaN for none."""
        found: dict[str, float] = {}
        for m, name in enumerate(self.measures):
            enough = self.mean[m, :, 1] >= agreement
            found[name] = float(self.mean[m, enough, 0].min()) if enough.any() else float("nan")
        return found

    def summary(self) -> dict[str, float]:
        """Layers needed for 95 % agreement, by each measure and by an oracle."""
        needed = {f"layers_at_0.95_{k}": v for k, v in self.layers_at(0.95).items()}
        return {**needed, **{name: float(v) for name, v in self.controls.values.items()}}

    def plot(self) -> "go.Figure":
        """Agreement against layers, a line per measure."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="layers", y="agreement", color="measure",
            low="agreement_low", high="agreement_high", hover_columns=("threshold", "kl"),
            title="What leaving early costs", labels={"layers": "layers per new token"},
            subtitle=f"n = {self.n_docs} documents",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class ExitCalibration(Result):
    """How often the choice of an exit layer is the full model's, by how sure the layer is."""

    measure: str
    edges: Float[np.ndarray, " bins_plus_one"]
    tokens: Float[np.ndarray, "layers bins"]
    """New tokens per bin of confidence."""
    sure: Float[np.ndarray, "layers bins"]
    """Mean confidence; NaN in an empty bin."""
    right: Float[np.ndarray, "layers bins"]
    """Share that is right; NaN in an empty bin."""

    @property
    def error(self) -> Float[np.ndarray, " layers"]:
        """Expected calibration error: sum over bins of share times |right - sure|.

        In [0, 1]; a probability only for ``softmax_max``, for other scores a distance. Source: Guo
        et al. 2017, arXiv:1706.04599.
        """
        gap = np.nan_to_num(np.abs(self.right - self.sure))
        return (gap * self.tokens).sum(1) / self.tokens.sum(1)

    def to_frame(self) -> "pd.DataFrame":
        """One row per exit layer and bin that holds tokens."""
        import pandas as pd

        e, b = np.nonzero(self.tokens)
        frame = pd.DataFrame(
            {"exit_layer": e + 1, "confidence": self.sure[e, b], "right": self.right[e, b],
             "n": self.tokens[e, b].astype(int)}
        )  # fmt: skip
        frame.attrs["units"] = {"right": "share of tokens", "n": "tokens"}
        return frame

    def summary(self) -> dict[str, float]:
        """Calibration error of the first, the middle and the last layer."""
        error = self.error
        return {
            "error_first": float(error[0]),
            "error_middle": float(error[(len(error) - 1) // 2]),
            "error_last": float(error[-1]),
        }

    def plot(self) -> "go.Figure":
        """Share that is right against confidence, a line per exit layer."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="confidence", y="right", color="exit_layer", hover_columns=("n",),
            title="When an exit layer is sure, is it right?",
            subtitle=f"{self.measure}; n = {int(self.tokens[0].sum()):,} new tokens",
            labels={"exit_layer": "layers executed"},
        )  # fmt: skip


def threshold_sweep(
    table: LensTable,
    measures: Sequence[str] = CONFIDENCES,
    thresholds: Sequence[float] = THRESHOLDS,
) -> ThresholdSweep:
    """Leave at every threshold by every measure, on the full model's text.

    Exact under teacher forcing with recomputed keys; a free run shares it up to its first
    difference. Control: leaving at the same layers, dealt to random tokens.

    Raises:
        ConfigError: no threshold, or one that is no number of at least 0.
        UnknownNameError: a confidence the table does not hold.

    Example:
        >>> found = acceleration.threshold_sweep(
        ...     acceleration.lens_table(own, early), ["softmax_max"]
        ... )
        >>> kept = found.to_frame().query("agreement >= 0.95").sort_values("layers")
        >>> kept[["measure", "threshold", "layers", "agreement"]].head(3)
    """
    values = np.array([float(t) for t in thresholds])
    if not len(values) or not np.isfinite(values).all() or values.min() < 0:
        raise ConfigError(f"thresholds are numbers of at least 0, got {list(thresholds)}")
    for name in measures:
        if name not in (*CONFIDENCES, "oracle"):
            raise UnknownNameError("confidence", name, known=(*CONFIDENCES, "oracle"))
    exits, docs = tuple(range(1, table.n_layers)), table.doc[table.new]
    found = np.empty((3, len(measures), len(values), len(_SWEPT)))
    shuffled: list[float] = []
    rng = np.random.default_rng(0)
    for m, name in enumerate(measures):
        for t, threshold in enumerate(values):
            left = exit_layers(table, float(threshold), name, exits)
            told = exit_quality(table, left)
            columns = (told["layers"], told["agreement"], told["kl"], -told["log_target"])
            spans = [bootstrap_mean(c, docs) for c in columns]
            found[:, m, t] = [[getattr(s, k) for s in spans] for k in ("mean", "low", "high")]
            if t == len(values) // 2:
                dealt = left.copy()
                dealt[table.new] = rng.permutation(left[table.new])
                shuffled.append(float(exit_quality(table, dealt)["agreement"].mean()))
    middle = found[0, :, len(values) // 2, 1]
    return ThresholdSweep(
        measures=tuple(measures), thresholds=values, mean=found[0], low=found[1], high=found[2],
        n_docs=len(np.unique(docs)),
        config={"text": table.config.get("text"), "inexact": table.inexact},
        controls=Controls(
            {"oracle_layers": float(table.first_correct().mean()),
             "agreement_middle": float(middle.mean()),
             "agreement_middle_shuffled": float(np.mean(shuffled))},
            note="the same exits dealt to random tokens, at the middle threshold",
        ),
        provenance=table.provenance,
    )  # fmt: skip


def exit_calibration(
    table: LensTable, measure: str = "softmax_max", bins: int = 10
) -> ExitCalibration:
    """Bin new tokens of every exit layer by confidence and say how often each bin is right.

    Raises:
        ConfigError: no bin.
        UnknownNameError: a confidence the table does not hold.

    Example:
        >>> found = acceleration.exit_calibration(acceleration.lens_table(own, early), bins=4)
    """
    bins = whole_number("bins", bins, least=1)
    sure = table.confidence(measure)[:, table.new].astype(np.float64)
    right = table.agrees[:, table.new]
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip((sure * bins).astype(int), 0, bins - 1)
    shape = (table.n_layers, bins)
    tokens, total, hits = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    layers = np.broadcast_to(np.arange(table.n_layers)[:, None], at.shape)
    np.add.at(tokens, (layers, at), 1.0)
    np.add.at(total, (layers, at), sure)
    np.add.at(hits, (layers, at), right)
    some = np.where(tokens > 0, tokens, np.nan)
    return ExitCalibration(
        measure=measure, edges=edges, tokens=tokens, sure=total / some, right=hits / some,
        config={"measure": measure, "bins": bins, "inexact": table.inexact},
        controls=Controls({"always_sure": float(1 - right[0].mean())},
                          note="error of a first layer that is always sure"),
        provenance=table.provenance,
    )  # fmt: skip
