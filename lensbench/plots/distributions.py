"""Histograms whose bins are counted before they are drawn, so a figure stays small."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lensbench.errors import ConfigError
from lensbench.plots.columns import groups, require, title_of
from lensbench.plots.states import empty_figure, no_numbers
from lensbench.plots.theme import colour, dress
from lensbench.words import spelled


def histogram(
    frame: pd.DataFrame,
    *,
    value: str,
    color: str | None = None,
    weight: str | None = None,
    bins: int = 40,
    log_x: bool = False,
    log_y: bool = False,
    unit: str | None = None,
    title: str = "",
    subtitle: str = "",
    labels: Mapping[str, str] | None = None,
    height: int = 340,
) -> go.Figure:
    """Counts of ``value`` in ``bins`` common bins, per value of ``color``.

    ``log_x`` bins the base-10 logarithm and leaves out values that have none, saying how many.
    ``weight`` names a column of counts, for frames that are histograms already.

    Raises:
        ConfigError: fewer than one bin.

    Example:
        >>> figure = plots.histogram(frame, value="value", color="word", bins=10)
    """
    require(frame, value, color, weight)
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    whole = np.asarray(frame[value], dtype=np.float64)
    usable = frame.loc[np.isfinite(whole) & ((whole > 0) | (not log_x))]
    if frame.empty:
        return empty_figure(f"no values of {spelled(value)}")
    if not np.isfinite(whole).any():
        name = title_of(frame, value, unit=unit, labels=labels)
        return no_numbers(name, len(frame), title=title)
    if usable.empty:
        return empty_figure(f"no value of {spelled(value)} is above 0, so none has a logarithm")
    x = np.asarray(usable[value], dtype=np.float64)
    edges = np.histogram_bin_edges(np.log10(x) if log_x else x, bins=bins)
    figure = go.Figure()
    for i, (name, part) in enumerate(groups(usable, color)):
        values = np.asarray(part[value], dtype=np.float64)
        weights = None if weight is None else np.asarray(part[weight], dtype=np.float64)
        counts, _ = np.histogram(np.log10(values) if log_x else values, edges, weights=weights)
        spans = [f"{a:.3g} to {b:.3g}" for a, b in _ends(edges, log_x)]
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            name=f"{name} (n={int(counts.sum())})" if name else f"n={int(counts.sum())}",
            marker={"color": colour(i), "line": {"width": 0}},
            opacity=0.85 if color is None else 0.6,
            customdata=spans,
            hovertemplate="%{customdata}<br>count: %{y}<extra></extra>",
        )
    left_out = len(frame) - len(usable)
    note = f"{left_out} of {len(frame)} values have no place here" if left_out else ""
    name = title_of(frame, value, unit=unit, labels=labels)
    dress(
        figure,
        title=title,
        subtitle=" · ".join(p for p in (subtitle or f"n={len(usable)}", note) if p),
        x_title=f"log10 {name}" if log_x else name,
        y_title="count",
        height=height,
    )
    figure.update_layout(barmode="overlay", bargap=0, showlegend=color is not None)
    if log_y:
        figure.update_yaxes(type="log")
    return figure


def _ends(edges: np.ndarray, log_x: bool) -> list[tuple[float, float]]:
    shown = 10**edges if log_x else edges
    return [(float(a), float(b)) for a, b in pairwise(shown)]
