"""Sparsity against fidelity, drawn one way wherever it is drawn."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lensbench.plots import scatter

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {
    "l0": "L0",
    "fvu": "FVU",
    "explained_variance": "Explained variance",
    "ce_recovered_zero": "CE recovered",
    "ce_recovered_mean": "CE recovered",
    "d_sae": "latents",
    "n": "documents",
}
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

    L0 has a logarithmic axis, as sparsities are chosen by factors.
    """
    sized = "d_sae" in frame
    figure = scatter(
        frame, x="l0", y=metric, color="architecture", low="low", high="high", text="name",
        front=best, labels=NAMES, hover_columns=["d_sae"] * sized, log_x=True, title=title,
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
    _size_legend(figure, sizes)
    _l0_axis(figure, np.asarray(frame["l0"], np.float64), str(frame.attrs["units"]["l0"]))
    return figure


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
