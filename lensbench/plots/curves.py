"""Lines with error bands, scatters with error bars and a Pareto front, and bars."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pandas.api.types import is_numeric_dtype

from lensbench.plots.columns import (
    aliases,
    few_counts,
    groups,
    hover,
    require,
    said_missing,
    title_of,
)
from lensbench.plots.states import empty_figure, no_numbers
from lensbench.plots.theme import DASHES, SYMBOLS, colour, dress, shade
from lensbench.words import spelled

CROWD = 2000
"""Points above which a scatter is drawn by the graphics card, small and without edges."""
MOST_BARS, MOST_MARKERS = 400, 120
"""Bars of a figure, and points of one line that get a marker each."""


def lines(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str | None = None,
    low: str | None = None,
    high: str | None = None,
    unit: str | None = None,
    title: str = "",
    subtitle: str = "",
    labels: Mapping[str, str] | None = None,
    hover_columns: Sequence[str] = (),
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
    height: int = 400,
) -> go.Figure:
    """One line per value of ``color``, with a band from ``low`` to ``high``.

    ``unit`` overrides the unit of ``y`` in ``frame.attrs["units"]``. Hovering shows ``n``.

    Example:
        >>> figure = plots.lines(frame, x="layer", y="value", color="word", unit="nats")
    """
    require(frame, x, y, color, low, high, *hover_columns)
    if (nothing := _nothing(frame, x, y, title, labels)) is not None:
        return nothing
    figure = go.Figure()
    for i, (name, part) in enumerate(groups(frame, color)):
        part = part.sort_values(x)
        if low is not None and high is not None and len(part) > 1:
            _band(figure, part, x, low, high, i)
        cells, text = hover(part, [x, y, *_present(low, high), *hover_columns], labels)
        figure.add_scatter(
            x=part[x].to_numpy(),
            y=part[y].to_numpy(),
            name=name,
            legendgroup=name,
            mode="lines+markers" if _marked(part, y, markers) else "lines",
            error_y=_bars(part, y, low, high) if len(part) == 1 else None,  # no room for a band
            line={"color": colour(i), "dash": DASHES[i % len(DASHES)], "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 7},
            customdata=cells,
            hovertemplate=(f"<b>{name}</b><br>" if name else "") + text,
        )
    return _finish(figure, frame, x, y, color, unit, labels, title, subtitle, log_x, log_y, height)


def scatter(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str | None = None,
    low: str | None = None,
    high: str | None = None,
    text: str | None = None,
    front: Literal["max", "min"] | None = None,
    unit: str | None = None,
    title: str = "",
    subtitle: str = "",
    labels: Mapping[str, str] | None = None,
    hover_columns: Sequence[str] = (),
    log_x: bool = False,
    log_y: bool = False,
    height: int = 420,
) -> go.Figure:
    """One marker per row, error bars from ``low`` to ``high``, and the Pareto front.

    ``front="max"`` joins the rows that no other row beats with less ``x`` and more ``y``
    (``"min"``: less ``y``).

    Example:
        >>> figure = plots.scatter(frame, x="layer", y="value", color="word", front="max")
    """
    require(frame, x, y, color, low, high, text, *hover_columns)
    if (nothing := _nothing(frame, x, y, title, labels)) is not None:
        return nothing
    figure, crowd = go.Figure(), len(frame) > CROWD
    if front is not None:
        _front(figure, frame, x, y, front)
    for i, (name, part) in enumerate(groups(frame, color)):
        shown = [*_present(text), x, y, *_present(low, high), *hover_columns]
        cells, hovered = hover(part, shown, labels)
        add: Any = figure.add_scattergl if crowd else figure.add_scatter
        add(
            x=part[x].to_numpy(),
            y=part[y].to_numpy(),
            name=name,
            mode="markers",
            marker={
                "color": colour(i),
                "symbol": SYMBOLS[i % len(SYMBOLS)],
                "size": 5 if crowd else 11,
                "line": {"width": 0 if crowd else 1, "color": "rgba(255,255,255,0.7)"},
            },
            error_y=_bars(part, y, low, high),
            customdata=cells,
            hovertemplate=(f"<b>{name}</b><br>" if name else "") + hovered,
        )
    return _finish(figure, frame, x, y, color, unit, labels, title, subtitle, log_x, log_y, height)


def bars(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str | None = None,
    low: str | None = None,
    high: str | None = None,
    unit: str | None = None,
    title: str = "",
    subtitle: str = "",
    labels: Mapping[str, str] | None = None,
    hover_columns: Sequence[str] = (),
    height: int = 360,
) -> go.Figure:
    """Grouped bars with error bars: a score beside its control.

    Of more than 400 rows the first 400 are drawn, and the subtitle says so.

    Example:
        >>> figure = plots.bars(
        ...     frame, x="word", y="value", color="layer", unit="nats", title="By word"
        ... )
    """
    require(frame, x, y, color, low, high, *hover_columns)
    if (nothing := _nothing(frame, x, y, title, labels)) is not None:
        return nothing
    if len(frame) > MOST_BARS:
        cut = f"the first {MOST_BARS} of {len(frame):,} rows"
        frame, subtitle = frame.head(MOST_BARS), f"{subtitle} · {cut}" if subtitle else cut
    figure = go.Figure()
    for i, (name, part) in enumerate(groups(frame, color)):
        cells, text = hover(part, [x, y, *_present(low, high), *hover_columns], labels)
        figure.add_bar(
            x=[str(v) for v in part[x]],
            y=part[y].to_numpy(),
            name=name,
            marker={"color": colour(i)},
            error_y=_bars(part, y, low, high),
            customdata=cells,
            hovertemplate=(f"<b>{name}</b><br>" if name else "") + text,
        )
    figure.update_layout(barmode="group", xaxis_labelalias=aliases(frame[x]))
    return _finish(figure, frame, x, y, color, unit, labels, title, subtitle, False, False, height)


def pareto_front(x: np.ndarray, y: np.ndarray, best: Literal["max", "min"]) -> np.ndarray:
    """Indices of the points that no other point beats: less (or equal) x and better y.

    Example:
        >>> plots.pareto_front(np.array([1, 2, 3]), np.array([0.1, 0.3, 0.2]), "max").tolist()
        [0, 1]
    """
    gain = y if best == "max" else -y
    order = np.lexsort((-gain, x))
    running = np.maximum.accumulate(gain[order])
    before = np.concatenate([[-np.inf], running[:-1]])
    return order[gain[order] > before]


def _front(
    figure: go.Figure, frame: pd.DataFrame, x: str, y: str, best: Literal["max", "min"]
) -> None:
    whole = frame.dropna(subset=[x, y])
    keep = pareto_front(whole[x].to_numpy(float), whole[y].to_numpy(float), best)
    figure.add_scatter(
        x=whole[x].to_numpy(float)[keep],
        y=whole[y].to_numpy(float)[keep],
        mode="lines",
        name="Pareto front",
        line={"color": "rgba(140,140,140,0.7)", "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )


def _band(figure: go.Figure, part: pd.DataFrame, x: str, low: str, high: str, i: int) -> None:
    figure.add_scatter(
        x=np.concatenate([part[x].to_numpy(), part[x].to_numpy()[::-1]]),
        y=np.concatenate([part[high].to_numpy(), part[low].to_numpy()[::-1]]),
        mode="lines",  # below twenty points plotly would put markers on the edge
        fill="toself",
        fillcolor=shade(i, 0.18),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def _bars(part: pd.DataFrame, y: str, low: str | None, high: str | None) -> dict[str, Any] | None:
    if low is None or high is None:
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": (part[high] - part[y]).clip(lower=0).to_numpy(),
        "arrayminus": (part[y] - part[low]).clip(lower=0).to_numpy(),
        "thickness": 1.2,
    }


def _log_ticks(values: Any) -> dict[str, Any]:
    """1, 2 and 5 of each decade, written out, where there are few decades; else plotly's own."""
    positive = np.asarray(values, dtype=np.float64)
    positive = positive[positive > 0]
    if not positive.size or positive.max() / positive.min() > 2000:
        return {"dtick": 1}
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    ticks = [m * 10.0**e for e in np.arange(low - 1, high + 1) for m in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _nothing(
    frame: pd.DataFrame, x: str, y: str, title: str, labels: Mapping[str, str] | None
) -> go.Figure | None:
    """The figure of a frame without a single number to draw."""
    if frame.empty:
        return empty_figure(f"no values of {spelled(y)}")
    for column in (y, x):
        if is_numeric_dtype(frame[column]) and not np.isfinite(frame[column].astype(float)).any():
            return no_numbers(title_of(frame, column, labels=labels), len(frame), title=title)
    return None


def _marked(part: pd.DataFrame, y: str, markers: bool) -> bool:
    """Whether points get markers: few ones, or ones that no line may join to a neighbour."""
    few = len(part) <= MOST_MARKERS or bool(part[y].isna().any())
    return len(part) < 4 or (markers and few)


def _present(*columns: str | None) -> list[str]:
    return [c for c in columns if c is not None]


def _finish(
    figure: go.Figure,
    frame: pd.DataFrame,
    x: str,
    y: str,
    color: str | None,
    unit: str | None,
    labels: Mapping[str, str] | None,
    title: str,
    subtitle: str,
    log_x: bool,
    log_y: bool,
    height: int,
) -> go.Figure:
    dress(
        figure,
        title=title,
        subtitle=" · ".join(part for part in (subtitle, said_missing(frame[y])) if part),
        x_title=title_of(frame, x, labels=labels),
        y_title=title_of(frame, y, unit=unit, labels=labels),
        height=height,
    )
    if log_x:
        figure.update_xaxes(type="log", **_log_ticks(frame[x]))
    elif few_counts(frame[x]):
        figure.update_xaxes(dtick=1)  # there is no layer 2.5
    if log_y:
        figure.update_yaxes(type="log", **_log_ticks(frame[y]))
    figure.update_layout(showlegend=color is not None)
    if color is not None:
        figure.update_layout(legend={"title": {"text": title_of(frame, color, labels=labels)}})
    return figure
