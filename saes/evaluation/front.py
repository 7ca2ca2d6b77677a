"""Sparsity against fidelity, drawn one way wherever it is drawn."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lensbench.errors import UnknownNameError
from lensbench.plots import pareto_front, scatter

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from lensbench.saes.evaluation.result import SAEEvaluation

NAMES = {
    "l0": "L0",
    "fvu": "FVU",
    "explained_variance": "Explained variance",
    "ce_recovered_zero": "CE recovered",
    "ce_recovered_mean": "CE recovered",
    "kl_recovered_zero": "KL recovered",
    "kl_reconstructed": "KL(clean ‖ reconstructed)",
    "cosine": "Cosine",
    "dead_fraction": "Dead fraction",
    "label_f1": "Best-latent F1",
    "d_sae": "latents",
    "n": "documents",
}
LABEL_F1 = "label_f1"
SMALLEST, LARGEST = 9.0, 17.0
"""Diameter of the markers of the narrowest and of the widest dictionary."""
_TICKS = [m * 10.0**e for e in range(-1, 5) for m in (1, 1.5, 2, 3, 5, 7)]


def front(
    frame: "pd.DataFrame",
    metric: str,
    *,
    best: Literal["max", "min"],
    title: str,
    subtitle: str = "",
    height: int = 460,
) -> "go.Figure":
    """Markers of a ``front_frame``: colour and symbol by architecture, size by width.

    L0 has a logarithmic axis, as sparsities are chosen by factors. Where there are several
    architectures each has a front of its own in its colour, beside that of all of them.
    """
    sized = "d_sae" in frame
    told = {**NAMES, "n": str(frame.attrs["units"].get("n", NAMES["n"]))}
    figure = scatter(
        frame, x="l0", y=metric, color="architecture", low="low", high="high", text="name",
        front=best, labels=told, hover_columns=["d_sae"] * sized, log_x=True, title=title,
        subtitle=subtitle, height=height,
    )  # fmt: skip
    if frame.empty:
        return figure
    sizes = marker_sizes(np.asarray(frame["d_sae"], np.int64)) if sized else {}
    traces: Any = figure.data
    for trace in traces:
        own = frame.loc[frame["architecture"].astype(str) == str(trace.name)]
        if trace.mode == "markers" and len(own):
            if sized:
                trace.marker.size = [sizes[int(d)] for d in own["d_sae"]]
            # What lies on another is seen through it, and keeps its outline.
            trace.marker.opacity = 0.72
            trace.marker.line = {"width": 1.5, "color": trace.marker.color}
    _own_fronts(figure, frame, metric, best)
    _size_legend(figure, sizes)
    _l0_axis(figure, np.asarray(frame["l0"], np.float64), str(frame.attrs["units"]["l0"]))
    return figure


def label_front_frame(result: "SAEEvaluation") -> "pd.DataFrame":
    """One row per dictionary: L0, width, and the mean over labels of the best latent's F1.

    No interval: labels share documents. ``n`` counts labels with an F1. ``control`` is the mean
    over labels of the strongest control of each.

    Raises:
        UnknownNameError: an evaluation without labels.
    """
    if not result.labels:
        hint = "Labels need a text that has them, such as atlas:N."
        raise UnknownNameError("metric", LABEL_F1, known=result.metrics, hint=hint)
    table, frame = result.labels_frame(), result.front_frame("l0")
    own = {"f1", "f1_low", "f1_high", "f1_selected"}
    controls = [c for c in table if str(c).startswith("f1_") and str(c) not in own]
    rows: list[tuple[float, int, float]] = []
    for name in frame["name"]:
        own_rows = (table["name"] == name).to_numpy()
        scored = np.isfinite(table["f1"].to_numpy(float)) & own_rows
        part = table.loc[scored]
        best = part[controls].to_numpy(float) if controls else np.full((len(part), 1), np.nan)
        strongest = best.max(1, initial=-np.inf, where=np.isfinite(best))
        strongest = strongest[np.isfinite(strongest)]
        f1 = part["f1"].to_numpy(float)
        rows.append((float(f1.mean()) if len(f1) else np.nan, len(f1),
                     float(strongest.mean()) if len(strongest) else np.nan))  # fmt: skip
    out: Any = frame[["name", "architecture", "d_sae", "l0"]].copy()
    out[LABEL_F1], out["n"], out["control"] = zip(*rows, strict=True)
    out["low"] = out["high"] = np.nan
    units = frame.attrs["units"]
    out.attrs["units"] = {**units, LABEL_F1: "mean over labels", "n": "labels"}
    return out


def _own_fronts(
    figure: "go.Figure", frame: "pd.DataFrame", metric: str, best: Literal["max", "min"]
) -> None:
    """The Pareto front within each architecture, where there is more than one."""
    known = frame.dropna(subset=["l0", metric])
    kinds = list(dict.fromkeys(known["architecture"].astype(str)))
    if len(kinds) < 2:
        return
    traces: Any = figure.data
    colours = {t.name: t.marker.color for t in traces if t.mode == "markers"}
    for trace in traces:
        if trace.name == "Pareto front":
            trace.line = {"color": "rgba(140,140,140,0.35)", "width": 7, "dash": "solid"}
    for kind in kinds:
        part = known.loc[known["architecture"].astype(str) == kind]
        x, y = part["l0"].to_numpy(float), part[metric].to_numpy(float)
        keep = pareto_front(x, y, best)
        figure.add_scatter(
            x=x[keep], y=y[keep], mode="lines", name=f"front of {kind}", legendgroup=kind,
            showlegend=False, hoverinfo="skip",
            line={"color": colours.get(kind, "#8C8C8C"), "width": 1.5, "dash": "dot"},
        )  # fmt: skip


def marker_sizes(widths: "np.ndarray") -> dict[int, float]:
    """Diameter by width of a dictionary: equal steps from the narrowest to the widest."""
    known = [int(w) for w in np.unique(widths)]
    if len(known) == 1:
        return {known[0]: (SMALLEST + LARGEST) / 2 - 2}
    steps = np.linspace(SMALLEST, LARGEST, len(known))
    return dict(zip(known, steps.tolist(), strict=True))


def _size_legend(figure: "go.Figure", sizes: dict[int, float]) -> None:
    if len(sizes) < 2:
        return
    for width, size in sizes.items():
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=f"{width:,} latents", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": size, "color": "#8C8C8C"},
        )  # fmt: skip
    figure.update_layout(legend_itemsizing="trace")


def _l0_axis(figure: "go.Figure", l0: "np.ndarray", unit: str) -> None:
    positive = l0[np.isfinite(l0) & (l0 > 0)]
    figure.update_xaxes(title={"text": f"L0, log axis [{unit}]"})
    if not len(positive):
        return
    low, high = positive.min() / 1.25, positive.max() * 1.25
    ticks = [t for t in _TICKS if low <= t <= high]
    figure.update_xaxes(range=[float(np.log10(low)), float(np.log10(high))])
    if len(ticks) >= 2:
        figure.update_xaxes(tickvals=ticks, ticktext=[f"{t:g}" for t in ticks])
