"""Lines with a strip of entropy on top."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go


def with_strip(
    figure: "go.Figure", layers: Sequence[int], bits: np.ndarray, *, most: float, title: str,
    subtitle: str,
) -> "go.Figure":  # fmt: skip
    """The figure's traces under a strip darker where a layer is surer, up to ``most`` bits."""
    from plotly.subplots import make_subplots

    from lensbench.plots.theme import SEQUENTIAL, dress

    rows: dict[str, Any] = {
        "row_heights": [0.88, 0.12],
        "vertical_spacing": 0.05,
        "start_cell": "bottom-left",
    }
    whole = make_subplots(rows=2, cols=1, shared_xaxes=True, **rows)
    whole.add_heatmap(
        x=list(layers), y=["entropy"], z=[bits.tolist()], colorscale=SEQUENTIAL, row=2, col=1,
        zmin=0, zmax=most, hovertemplate="after block %{x}: %{z:.2f} bits<extra></extra>",
        colorbar={"title": {"text": "bits"}, "len": 0.35, "y": 0.9, "thickness": 10},
    )  # fmt: skip
    for trace in figure.data:
        whole.add_trace(trace, row=1, col=1)
    dress(whole, title=title, subtitle=subtitle, height=460)
    layout: Any = figure.layout
    whole.update_xaxes(layout.xaxis.to_plotly_json(), row=1, col=1)
    whole.update_yaxes(layout.yaxis.to_plotly_json(), row=1, col=1)
    whole.update_layout(
        margin={"t": 96}, showlegend=True,
        legend={"orientation": "h", "yanchor": "top", "y": -0.16, "x": 0},
    )  # fmt: skip
    return whole
