"""Sparsity against fidelity of an evaluated run, with intervals and a control."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench import plots
from lensbench.app.workflows.runs import evaluation_of
from lensbench.app.workflows.sections import LABELS, interval_note, label_scores, short_names
from lensbench.errors import MissingDataError, UnknownNameError
from lensbench.saes.evaluation.front import LABEL_F1, NAMES, front, label_front_frame
from lensbench.saes.evaluation.result import SAEEvaluation

if TYPE_CHECKING:
    import plotly.graph_objects as go

FRONTS = {
    "ce_recovered_zero": ("max", "CE recovered: (CE with the site zeroed - CE with the"
                          " reconstruction) / (CE zeroed - CE clean), measured by running the"
                          " model with the reconstruction in place. Higher is better."),
    "fvu": ("min", "FVU: share of the variance of the activations that is not reconstructed. Lower"
            " is better."),
    LABEL_F1: ("max", "Best-latent F1: for every label the F1 of the one latent that says it best,"
               " chosen on other tokens than it is scored on; the mean over labels. Higher is"
               " better."),
    "kl_recovered_zero": ("max", "KL recovered: 1 - KL(clean ‖ reconstructed) / KL(clean ‖ zeroed)"
                          ", from the clean model's predictions. Higher is better."),
    "kl_reconstructed": ("min", "KL(clean ‖ reconstructed) [nats], of predictions without and with"
                         " the reconstruction in place. Lower is better."),
    "cosine": ("max", "Cosine of activation and reconstruction, mean over tokens. Higher is"
               " better."),
    "dead_fraction": ("min", "Share of latents that never fired. Lower is better."),
}  # fmt: skip
"""Metrics that are drawn: which end is best, and what they mean."""
RANDOM = "control: the best random dictionary"
MEAN = "control: the mean activation"
NONE = "control: none"
STRONGEST = "control: the strongest of each label"


def evaluated(run: Path) -> SAEEvaluation:
    """The evaluation of a run.

    Raises:
        MissingDataError: it was not evaluated; says how.
    """
    found = evaluation_of(run)
    if found is None:
        raise MissingDataError(
            f"{run.name} was not evaluated; do: lensbench eval sae {run} --store DIR --model M"
        )
    return found


def drawable(result: SAEEvaluation) -> dict[str, str]:
    """Metrics of :data:`FRONTS` that were measured, and their names."""
    there = [m for m in FRONTS if m in result.metrics or (m == LABEL_F1 and result.labels)]
    return {m: NAMES[m] for m in there}


def front_frame(result: SAEEvaluation, metric: str) -> pd.DataFrame:
    """One row per dictionary: L0, ``metric`` with its 95 % interval, n; then the control's row.

    The control puts the mean activation in place of every one: a dictionary of L0 0. That of label
    F1 is the mean over labels of the strongest control of each, the largest of all dictionaries.

    Raises:
        UnknownNameError: a metric that was not measured.
    """
    if metric not in drawable(result):
        raise UnknownNameError("metric", metric, known=list(drawable(result)))
    if metric == LABEL_F1:
        frame = label_front_frame(result)
        level, name = float(np.nanmax(frame.pop("control").to_numpy(float))), STRONGEST
    else:
        frame, (name, level) = result.front_frame(metric), control_of(result, metric)
    units = {"n": "documents", **frame.attrs["units"]}
    n = int(np.asarray(frame["n"]).max())
    control = {"name": name, "architecture": "control", "d_sae": 0, "l0": 0.0, "n": n,
               metric: level}  # fmt: skip
    frame = pd.concat([frame, pd.DataFrame([control])], ignore_index=True)
    frame.attrs["units"] = units
    return frame


def bars_note(frame: pd.DataFrame) -> str:
    """What the bars of a :func:`front_frame` are, or why there are none."""
    if frame.attrs["units"].get("n") == "labels":
        return f"no interval: {int(np.asarray(frame['n']).max())} labels share documents"
    return f"bars: {interval_note(frame)}"


def front_caption(frame: pd.DataFrame, metric: str) -> str:
    """What a front shows: the metric, the control, n and the bars."""
    units = frame.attrs["units"]["n"]
    name = str(frame.loc[frame["architecture"] == "control", "name"].iloc[0])
    control = {
        STRONGEST: "Dashed: the mean over labels of the strongest control of each.",
        MEAN: "Dashed: the mean activation in place of every one (L0 = 0).",
        RANDOM: "Dashed: the best of the dictionaries with random directions, one per dictionary.",
    }.get(name, "No control was measured.")
    note = bars_note(frame)
    return (
        f"{FRONTS[metric][1]} {control} Dotted: the Pareto front (of each architecture, and wide "
        f"in grey of all, where there are several). n = {int(np.asarray(frame['n']).max()):,} "
        f"{units}. {note[:1].upper()}{note[1:]}."
    )


def control_of(result: SAEEvaluation, metric: str) -> tuple[str, float]:
    """The control of a metric and its level: the mean activation, or the best random dictionary.

    NaN where the evaluation holds none.
    """
    if metric in ("fvu", "ce_recovered_zero"):
        return MEAN, mean_control(result, metric)
    frame = result.to_frame()
    values = frame.loc[(frame["metric"] == metric) & (frame["source"] == "random_dictionary"),
                       "value"].to_numpy(float)  # fmt: skip
    values = values[np.isfinite(values)]
    if not len(values):
        return NONE, float("nan")
    return RANDOM, float(values.max() if FRONTS[metric][0] == "max" else values.min())


def mean_control(result: SAEEvaluation, metric: str) -> float:
    """What the mean activation reaches: FVU 1 by definition, CE recovered as measured.

    Of dictionaries of several sites the strongest: the line that each has to pass anywhere.
    """
    if metric == "fvu":
        return 1.0
    columns = [result.metrics.index(f"ce_{m}") for m in ("zero_ablated", "mean_ablated", "clean")]
    zero, mean, clean = result.values[:, columns, 0].T
    gap = zero - clean
    shares = (zero - mean)[gap > 0] / gap[gap > 0]
    return float(shares.max()) if len(shares) else float("nan")


def front_figure(frame: pd.DataFrame, metric: str) -> "go.Figure":
    """The figure of a :func:`front_frame`."""
    own = frame.loc[frame["architecture"] != "control"]
    own.attrs.update(frame.attrs)
    drawn = front(
        own, metric, best="max" if FRONTS[metric][0] == "max" else "min",
        title=f"{NAMES[metric]} against L0", subtitle=bars_note(own),
    )  # fmt: skip
    control: Any = frame.loc[frame["architecture"] == "control"].iloc[0]
    level, name = float(control[metric]), str(control["name"])
    ends = [float(np.asarray(own["l0"]).min()), float(np.asarray(own["l0"]).max())]
    spread = own[[metric, "low", "high"]].to_numpy(np.float64)
    if not np.isfinite(spread).any():
        return drawn  # it says itself that no value is a number
    low, high = float(np.nanmin(spread)), float(np.nanmax(spread))
    margin = 0.08 * (high - low or 1.0)
    # Dictionaries are told apart by small differences: the axis fits them, and says where the
    # control lies.
    drawn.update_yaxes(range=[low - margin, high + margin])
    drawn.update_layout(legend={"orientation": "h", "y": -0.24, "title": {"text": ""}}, height=500)
    if not np.isfinite(level):
        return drawn
    seen = low - margin <= level <= high + margin
    told = f"{name}, {level:.3g}{'' if seen else ' (off this axis)'}"
    drawn.add_scatter(
        x=ends, y=[level, level], mode="lines", name=told, customdata=[level, level],
        hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
        line={"color": "#8C8C8C", "dash": "dash", "width": 1.5},
    )  # fmt: skip
    return drawn


HEADLINE = ("l0", "fvu", "ce_recovered_zero", "ce_recovered_mean", "dead_fraction", "label_f1")
GROUPS = {
    "Headline": HEADLINE,
    "Reconstruction": (
        "explained_variance", "explained_variance_legacy", "mse", "cosine", "l2_ratio",
        "relative_reconstruction_bias",
    ),
    "Latents": ("density_over_1_percent", "density_over_10_percent", "implants_recovered"),
    "Cross entropy with the site replaced": (
        "ce_clean", "ce_zero_ablated", "ce_mean_ablated", "ce_reconstructed",
    ),
    "KL(clean ‖ reconstructed)": ("kl_reconstructed", "kl_recovered_zero", "kl_recovered_mean"),
}  # fmt: skip
"""Metrics in tables narrow enough to be read whole."""


WIDEST = 6
"""Metrics side by side, at most."""


def score_table(result: SAEEvaluation) -> pd.DataFrame:
    """Every metric of every dictionary, and its mean label F1 where there are labels."""
    frame: Any = result.wide_frame()
    units = dict(frame.attrs["units"])
    if result.labels:
        means: Any = result.labels_frame().groupby("name")["f1"].mean()
        frame["label_f1"] = [float(means.get(name, np.nan)) for name in frame["name"]]
        units["label_f1"] = "F1, mean over labels"
    first = [c for c in ("name", "site", "architecture", *HEADLINE) if c in frame]
    frame = frame[[*first, *[c for c in frame if c not in first]]]
    frame.attrs["units"] = units
    return frame


def score_groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The same as narrow tables, by what they are about; together they hold every metric."""
    short = short_names([str(name) for name in table["name"]])
    names = [short[str(name)] for name in table["name"]]
    out: dict[str, pd.DataFrame] = {}
    for title, metrics in GROUPS.items():
        if kept := [m for m in metrics if m in table]:
            part = pd.DataFrame(table[kept])
            part.insert(0, "dictionary", names)
            out[title] = part
    rest = [c for c in table if c not in {m for g in GROUPS.values() for m in g}]
    rest = [str(c) for c in rest if c not in ("name", "site", "architecture")]
    for start in range(0, len(rest), WIDEST):
        part = pd.DataFrame(table[rest[start : start + WIDEST]])
        part.insert(0, "dictionary", names)
        out["Others" if not start else f"Others, {start // WIDEST + 1}"] = part
    return out


def note_of(result: SAEEvaluation) -> str:
    """What the controls' note says beside what was disclosed above."""
    note = result.controls.note.replace(f"; {result.disclosure}", "")
    # As evaluations said it until the wording was mended.
    note = note.replace("label F1 are means", "each label F1 is a mean")
    return note[:1].upper() + note[1:] + "." * bool(note)


def origin_of(result: SAEEvaluation) -> str:
    """When, on what and by which code a run was evaluated, in a line."""
    told = result.provenance
    model = " ".join(str(told.model[k]) for k in ("name", "fingerprint") if told.model.get(k))
    parts = {"evaluated": told.when.replace("T", " ")[:16] + " UTC" * bool(told.when),
             "model": model, "store": told.store, "code": told.git, "device": told.device,
             "seed": told.seed}  # fmt: skip
    return ", ".join(f"{k} {v}" for k, v in parts.items() if v not in ("", None))


def label_figure(result: SAEEvaluation) -> "tuple[go.Figure, str, pd.DataFrame] | None":
    """Label F1 beside its controls: figure, caption and data; None where the text has no labels."""
    if not result.labels:
        return None
    frame = label_scores(result.labels_frame())
    frame.attrs["units"] = {"label_f1": "mean over labels"}
    drawn = plots.bars(frame, x="dictionary", y="label_f1", color="scored", labels=LABELS,
                       title="Label F1 beside its controls", height=420)  # fmt: skip
    caption = (
        f"Each bar is a mean over n = {int(np.asarray(frame['n']).max())} labels, without an "
        f"interval (labels share documents; each label has one of its own in "
        f"labels_frame()); {result.split}. "
        "Every control runs the same choice of latent and threshold, or the best rule that needs "
        "no activations."
    )
    return drawn, caption, frame
