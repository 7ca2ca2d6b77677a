"""Heat maps with fixed colour ranges, named cells and an announced size limit."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lensbench.errors import ConfigError
from lensbench.plots.columns import (
    LONGEST,
    aliases,
    escape_all,
    few_counts,
    hover,
    pivot,
    require,
    short,
    title_of,
)
from lensbench.plots.states import empty_figure, no_numbers
from lensbench.plots.theme import DIVERGING, SEQUENTIAL, dress
from lensbench.words import spelled

MAX_SIDE = 512
MAX_HOVER = 30_000
MAX_TEXT = 600
ROW_LETTERS = 110
"""Letters that a row of cells has room for; a longer word is cut, the hover has it."""
LEAST_HEIGHT = 280
"""Pixels in which the title of a colour bar stands whole."""


def heatmap(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    value: str,
    unit: str | None = None,
    text: str | None = None,
    span: tuple[float, float] | None = None,
    diverging: bool = False,
    x_labels: Mapping[int, str] | None = None,
    hover_columns: Sequence[str] = (),
    title: str = "",
    subtitle: str = "",
    labels: Mapping[str, str] | None = None,
    height: int | None = None,
) -> go.Figure:
    """Cells ``value`` at (``x``, ``y``), one row of ``frame`` per cell.

    ``span`` fixes the colour range (give the metric's own range, so figures compare; without one it
    is that of the cells, and the subtitle says so); with ``diverging`` it is centred at zero, red
    positive. ``x_labels`` names columns (repeated tokens
    stay distinct columns). Above 512 cells a side, blocks are merged by largest absolute value,
    and the subtitle says so.

    Raises:
        ConfigError: two rows for one cell.

    Example:
        >>> figure = plots.heatmap(
        ...     frame,
        ...     x="position",
        ...     y="layer",
        ...     value="value",
        ...     unit="nats",
        ...     diverging=True,
        ...     span=(-1, 1),
        ...     title="Effect",
        ... )
    """
    require(frame, x, y, value, text, *hover_columns)
    if frame.empty:
        return empty_figure(f"no values of {spelled(value)}")
    if frame.duplicated([x, y]).any():
        raise ConfigError(f"heatmap needs one row per cell; ({x}, {y}) repeat: average them first")
    z, xs, ys = pivot(frame, x, y, value)
    if not np.isfinite(z).any():
        return no_numbers(title_of(frame, value, unit=unit, labels=labels), len(frame), title=title)
    merged, note = _shrink(z)
    if span is None:
        span, told = _own_span(z, diverging)
        note = " · ".join(part for part in (told, note) if part)
    whole = merged.shape == z.shape
    trace = go.Heatmap(
        z=merged.astype(np.float32),
        x=xs if whole else None,
        y=ys if whole else None,
        colorscale=DIVERGING if diverging else SEQUENTIAL,
        zmin=span[0],
        zmax=span[1],
        xgap=1 if z.size < 2_000 else 0,
        ygap=1 if z.size < 2_000 else 0,
        colorbar={
            "title": {
                "text": _two_lines(title_of(frame, value, unit=unit, labels=labels)),
                "side": "right",
            },
            "thickness": 14,
            "outlinewidth": 0,
        },
    )
    if whole and z.size <= MAX_HOVER:
        _add_hover(trace, frame, x, y, [x, y, value, *hover_columns], labels)
    if whole and text is not None and z.size <= MAX_TEXT:
        words = frame.pivot(index=y, columns=x, values=text).fillna("").to_numpy(dtype=str)
        room = max(4, min(LONGEST, ROW_LETTERS // len(xs)))
        cut = [w if len(w) <= room else f"{w[: room - 1]}…" for w in words.ravel()]
        trace.text = np.array(escape_all(cut)).reshape(words.shape)
        trace.texttemplate = "%{text}"
        trace.textfont = {"size": 11}
    figure = go.Figure(trace)
    dress(
        figure,
        title=title,
        subtitle=" · ".join(part for part in (subtitle, note) if part),
        x_title=title_of(frame, x, labels=labels),
        y_title=title_of(frame, y, labels=labels),
        height=max(LEAST_HEIGHT, height or min(720, 170 + 34 * min(len(ys), 16))),
    )
    figure.update_xaxes(showgrid=False, zeroline=False, labelalias=aliases(xs))
    figure.update_yaxes(showgrid=False, zeroline=False, labelalias=aliases(ys))
    if whole and x_labels is not None:
        figure.update_xaxes(tickvals=xs, ticktext=escape_all([short(x_labels[v]) for v in xs]))
    elif whole and few_counts(xs):
        figure.update_xaxes(tickvals=xs)
    if whole and len(ys) <= 32:
        figure.update_yaxes(tickvals=ys)
    return figure


def _two_lines(title: str) -> str:
    """Long titles of a colour bar run over its ends; their unit stands on a line of its own."""
    return title.replace(" [", "<br>[", 1) if len(title) > 22 else title


def _own_span(z: np.ndarray, diverging: bool) -> tuple[tuple[float, float], str]:
    """The range of these values where none is given, and that it is theirs alone."""
    known = z[np.isfinite(z)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if diverging:
        high = max(abs(low), abs(high))
        low = -high
    if low == high:
        return (low - 0.5, low + 0.5), f"every cell is {low:.4g}"
    return (low, high), f"colours: {low:.3g} to {high:.3g}, the range of these cells"


def _add_hover(
    trace: go.Heatmap,
    frame: pd.DataFrame,
    x: str,
    y: str,
    columns: Sequence[str],
    labels: Mapping[str, str] | None,
) -> None:
    cells, template = hover(frame, columns, labels)
    rows = frame[y].rank(method="dense").to_numpy(int) - 1
    cols = frame[x].rank(method="dense").to_numpy(int) - 1
    grid = np.full((rows.max() + 1, cols.max() + 1, cells.shape[1]), "absent", dtype=object)
    grid[rows, cols] = cells
    trace.customdata = grid
    trace.hovertemplate = template


def _shrink(z: np.ndarray) -> tuple[np.ndarray, str]:
    """Merge blocks by largest absolute value until both sides fit; say what was done."""
    steps = [-(-side // MAX_SIDE) for side in z.shape]
    if max(steps) == 1:
        return z, ""
    padded = np.full([-(-side // s) * s for side, s in zip(z.shape, steps, strict=True)], np.nan)
    padded[: z.shape[0], : z.shape[1]] = z
    blocks = padded.reshape(padded.shape[0] // steps[0], steps[0], -1, steps[1])
    blocks = blocks.transpose(0, 2, 1, 3).reshape(-1, steps[0] * steps[1])
    pick = np.nan_to_num(np.abs(blocks), nan=-1.0).argmax(1)
    merged = blocks[np.arange(len(blocks)), pick]
    side = padded.shape[0] // steps[0]
    note = (
        f"{z.shape[0]}x{z.shape[1]} cells shown as blocks of {steps[0]}x{steps[1]}, "
        "each its largest absolute value"
    )
    return merged.reshape(side, -1), note
