"""Plot primitives: frames in, plotly figures out; no tensors, models or result classes.

``lines``, ``scatter``, ``bars``, ``heatmap`` (also ``clickable``), ``mosaic``, ``histogram``,
``points`` (thousands of them), ``network`` (nodes and edges), token strips as HTML, and figures for
"nothing yet" and "this failed", all in one look (:mod:`lensbench.plots.theme`).
"""

from lensbench.plots.clicks import clickable
from lensbench.plots.curves import bars, lines, pareto_front, scatter
from lensbench.plots.distributions import histogram
from lensbench.plots.grids import heatmap
from lensbench.plots.mosaic import mosaic
from lensbench.plots.network import network
from lensbench.plots.points import points
from lensbench.plots.states import empty_figure, error_figure
from lensbench.plots.theme import CONFIG, template
from lensbench.plots.tokens import token_strip, visible

__all__ = [
    "CONFIG",
    "bars",
    "clickable",
    "empty_figure",
    "error_figure",
    "heatmap",
    "histogram",
    "lines",
    "mosaic",
    "network",
    "pareto_front",
    "points",
    "scatter",
    "template",
    "token_strip",
    "visible",
]
