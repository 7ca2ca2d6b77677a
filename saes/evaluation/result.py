"""The evaluation of a sweep as a value: metrics with intervals, the label table, densities."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import UnknownNameError
from lensbench.results import Result, number
from lensbench.saes.evaluation.scores import ITSELF, beside, frame_of, headline, picture
from lensbench.saes.evaluation.seen import UNKNOWN, disclosure

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

UNITS = {
    "l0": "latents per token",
    "fvu": "share of variance",
    "explained_variance": "share of variance",
    "explained_variance_legacy": "mean over tokens of a share",
    "mse": "squared units of the site",
    "cosine": "cosine",
    "l2_ratio": "ratio of lengths",
    "relative_reconstruction_bias": "ratio",
    "dead_fraction": "share of latents",
    "density_over_1_percent": "share of latents",
    "density_over_10_percent": "share of latents",
    "ce_clean": "nats per token",
    "ce_zero_ablated": "nats per token",
    "ce_mean_ablated": "nats per token",
    "ce_reconstructed": "nats per token",
    "kl_reconstructed": "KL(clean ‖ reconstructed) [nats]",
    "ce_recovered_zero": "share of the zero-ablation loss",
    "ce_recovered_mean": "share of the mean-ablation loss",
    "kl_recovered_zero": "share of the zero-ablation KL",
    "kl_recovered_mean": "share of the mean-ablation KL",
    "implants_recovered": "share of implanted directions",
}
"""Metric to unit; the formulas are in :mod:`lensbench.saes.evaluation.metrics`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SAEEvaluation(Result):
    """Metrics of every dictionary of a sweep, on the same tokens.

    ``values[i, j]`` is (value, low, high) of metric ``metrics[j]`` for dictionary ``names[i]``;
    intervals are 95 % bootstraps over documents, NaN where there is none. ``counts[i, j]`` is the
    number of units behind it: documents (latents for ``dead_fraction``, directions for implants).

    Example:
        >>> found = saes.evaluate(runs, store, model)
        >>> table = found.to_frame()
    """

    units: ClassVar[dict[str, str]] = UNITS

    names: tuple[str, ...]
    sites: tuple[str, ...]
    """``a``, or ``a>b`` of a transcoder that reads a and is scored on b."""
    architectures: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Float[np.ndarray, "dictionaries metrics 3"]
    counts: Int[np.ndarray, "dictionaries metrics"]
    undefined: Int[np.ndarray, "dictionaries metrics"]
    """Tokens on which a metric has no value (cosine of a zero vector); they are left out of it."""
    n_tokens: int
    """Activation rows behind the reconstruction metrics and the densities."""
    n_documents: int
    n_scored: int
    """Predicted tokens behind CE and KL."""
    n_sequences: int = 0
    """Sequences that these tokens are of."""
    density: dict[str, Float[np.ndarray, " d_sae"]] = field(default_factory=dict)
    """Firing frequency of every latent, by dictionary."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Columns of :meth:`labels_frame`."""
    split: str = ""
    """In words: what separates the tokens that choose a latent from those that score it."""
    seen: dict[str, str] = field(default_factory=dict[str, str])
    """By dictionary, what of this store it was trained on: ``rows``, ``text``, ``no``, ``unknown``;
    empty in results of before this was asked."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Columns of the common table: every measure but core, and the controls of all of them."""
    suite: dict[str, dict[str, Result]] = field(default_factory=dict)
    """By measure and dictionary, the detailed result (per label, per threshold ...)."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """Measures that were asked for and are not here (of a single dictionary: ``measure: name``),
    and why."""
    layers_run: int = 0
    """Layer-forwards that ran for CE and KL."""
    layers_separate: int = 0
    """What one evaluation per dictionary would run (clean, zero, mean, reconstructed; in full)."""
    layers_separate_shared: int = 0
    """The same, if each of them ran the layers below the site only once."""
    layers_controls: int = 0
    """What CE and KL of the random dictionaries ran beside that; in none of the other three."""

    def value(self, metric: str, name: str = "") -> float:
        """One number; ``name`` may be left out where there is one dictionary.

        Raises:
            UnknownNameError: a metric or a dictionary that is not here.
        """
        name = name or self.names[0]
        if metric not in self.metrics:
            raise UnknownNameError("metric", metric, known=self.metrics)
        if name not in self.names:
            raise UnknownNameError("dictionary", name, known=self.names)
        return float(self.values[self.names.index(name), self.metrics.index(metric), 0])

    @property
    def disclosure(self) -> str:
        """In words: whether the dictionaries were trained on what they are scored on."""
        return disclosure(self.seen or dict.fromkeys(self.names, UNKNOWN))

    def __repr__(self) -> str:
        """One line: the headline numbers, and whether they are of the training rows."""
        numbers = ", ".join(f"{name} {number(value)}" for name, value in self.summary().items())
        return f"{self.kind}({numbers}; {self.disclosure})"

    @property
    def layer_ratio(self) -> float:
        """``layers_run / layers_separate``; NaN where no model was run."""
        return self.layers_run / self.layers_separate if self.layers_separate else float("nan")

    def to_frame(self) -> "pd.DataFrame":
        """One row per measure, dictionary, metric and source: value, interval, n, unit.

        Source ``dictionary`` is the dictionary itself; the other sources are its controls.
        """
        import pandas as pd

        core = [
            {
                "measure": "core",
                "name": name,
                "metric": metric,
                "source": ITSELF,
                "value": self.values[i, j, 0],
                "low": self.values[i, j, 1],
                "high": self.values[i, j, 2],
                "n": int(self.counts[i, j]),
                "unit": UNITS[metric],
                "n_undefined": int(self.undefined[i, j]),
            }
            for i, name in enumerate(self.names)
            for j, metric in enumerate(self.metrics)
        ]
        frame = pd.DataFrame(core)
        if self.scores:
            rest = frame_of(self.scores).assign(n_undefined=0)
            frame = pd.concat([frame, rest], ignore_index=True)
        place = [self.names.index(name) for name in frame["name"]]
        frame.insert(2, "site", [self.sites[i] for i in place])
        frame.insert(3, "architecture", [self.architectures[i] for i in place])
        frame.attrs["units"] = {}
        frame.attrs["controls"] = str(self.controls)
        return frame

    def beside_controls(self, measure: str, metric: str = "") -> "pd.DataFrame":
        """One row per dictionary: a metric of a measure, its interval, and every control.

        Without ``metric`` the headline of the measure.

        Raises:
            UnknownNameError: a measure or metric that is not here.
        """
        return beside(self.to_frame(), measure, metric)

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures that are here."""
        return tuple(dict.fromkeys(["core", *self.scores.get("measure", ())]))

    def wide_frame(self) -> "pd.DataFrame":
        """One row per dictionary, one column per metric (values only)."""
        import pandas as pd

        frame = pd.DataFrame(self.values[:, :, 0], columns=list(self.metrics))
        frame.insert(0, "name", list(self.names))
        frame.insert(1, "site", list(self.sites))
        frame.insert(2, "architecture", list(self.architectures))
        frame.attrs["units"] = {m: UNITS[m] for m in self.metrics}
        return frame

    def labels_frame(self) -> "pd.DataFrame":
        """One row per dictionary and label: the best latent, and every control beside it.

        ``f1`` and ``auroc`` are on tokens that had no part in choosing latent and threshold.
        """
        import pandas as pd

        frame = pd.DataFrame({key: list(column) for key, column in self.labels.items()})
        frame.attrs["units"] = {c: "F1" for c in frame if str(c).startswith("f1")}
        frame.attrs["split"] = self.split
        return frame

    def density_frame(self) -> "pd.DataFrame":
        """One row per dictionary and latent: its firing frequency."""
        import pandas as pd

        parts = [
            pd.DataFrame({"name": name, "latent": np.arange(len(d)), "density": d})
            for name, d in self.density.items()
        ]
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs["units"] = {"density": "share of tokens"}
        return frame

    def summary(self) -> dict[str, float]:
        """Best value over the dictionaries of each headline metric, and the mean label F1."""
        best = {"explained_variance": np.max, "ce_recovered_zero": np.max}
        best |= {"ce_recovered_mean": np.max, "dead_fraction": np.min}
        out = {"dictionaries": float(len(self.names)), "tokens": float(self.n_tokens)}
        for metric, pick in best.items():
            if metric in self.metrics:
                column = self.values[:, self.metrics.index(metric), 0]
                out[f"best {metric}"] = float(pick(column)) if len(column) else float("nan")
        if self.labels:
            f1 = np.asarray(self.labels["f1"], float)
            out["label f1, mean"] = float(f1[np.isfinite(f1)].mean()) if f1.size else float("nan")
        whole = frame_of(self.scores)
        for measure in self.measures[1:]:
            if set(whole.loc[whole["measure"] == measure, "source"]) >= {ITSELF}:
                metric = headline(whole, measure)
                here = (whole["measure"] == measure) & (whole["metric"] == metric)
                own = np.asarray(whole.loc[here & (whole["source"] == ITSELF), "value"], float)
                own = own[np.isfinite(own)]
                if measure != "labels":
                    mean = float(own.mean()) if own.size else float("nan")
                    out[f"{measure.replace('_', ' ')}: {metric}, mean"] = mean
        if self.layers_separate:
            out["layer-forwards / separate"] = self.layer_ratio
        return out

    def front_frame(self, metric: str) -> "pd.DataFrame":
        """One row per dictionary: L0, width, and ``metric`` with its interval and n.

        Raises:
            UnknownNameError: a metric that was not measured.
        """
        import pandas as pd

        if metric not in self.metrics:
            raise UnknownNameError("metric", metric, known=self.metrics)
        at = self.metrics.index(metric)
        frame = pd.DataFrame(
            {
                "name": list(self.names),
                "architecture": list(self.architectures),
                "d_sae": [len(self.density.get(name, ())) for name in self.names],
                "l0": self.values[:, self.metrics.index("l0"), 0],
                metric: self.values[:, at, 0],
                "low": self.values[:, at, 1],
                "high": self.values[:, at, 2],
                "n": self.counts[:, at],
            }
        )
        frame.attrs["units"] = {m: UNITS[m] for m in ("l0", metric)}
        return frame

    def plot(self, measure: str = "core", metric: str = "") -> "go.Figure":
        """L0 against CE recovered (or explained variance); of another measure, with its controls.

        Raises:
            UnknownNameError: a measure or metric that is not here.
        """
        if measure != "core" or metric:
            return picture(self.to_frame(), measure, metric)
        from lensbench.saes.evaluation.front import front

        with_model = "ce_recovered_zero" in self.metrics
        y = "ce_recovered_zero" if with_model else "explained_variance"
        told = f"{self.n_tokens:,} tokens of {self.n_documents:,} documents; 95 % intervals"
        return front(self.front_frame(y), y, best="max", title="Sparsity against fidelity",
                     subtitle=told)  # fmt: skip

    def plots(self) -> "dict[str, go.Figure]":
        """The figure of every measure that is here."""
        return {measure: self.plot(measure) for measure in self.measures}

    def _html_body(self) -> str:
        from lensbench.saes.evaluation.shown import evaluation_html

        return evaluation_html(self)
