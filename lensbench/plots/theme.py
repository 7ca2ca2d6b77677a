"""One look for every figure: a template for light and dark, colours, and plotly's settings.

Colours are Okabe and Ito's (2008), which stay apart under the common colour-vision deficiencies;
series differ in marker and dash as well, so colour is never the only sign. Traces carry the same
colours in both modes, so that a page switches mode by swapping the template alone. Light figures
lie on white, not on nothing: a notebook in dark mode would show dark words on a dark page.
"""

import re
import textwrap
from functools import cache
from typing import Any, Literal

import plotly.graph_objects as go

from lensbench.plots.bidi import isolated
from lensbench.words import in_words

Mode = Literal["light", "dark"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#8F6BC2")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "hexagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
SEQUENTIAL = "Cividis"
DIVERGING = "RdBu_r"  # red is positive, blue negative; the centre is zero

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}
"""Plotly's page settings: without ``showSendToCloud`` its menu offers to upload the figure."""

WIDEST, LINE, MOST_LINES = 58, 16, 4
"""Characters of a line of a subtitle, its height in pixels, and lines."""
TITLE_WIDEST, TITLE_LINE = 46, 19
"""Characters of a line of a title in a figure half a page wide, and its height in pixels."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"
INK = {"light": "#1f2328", "dark": "#e6e8eb"}
MUTED = {"light": "#59636e", "dark": "#9aa4b0"}
GRID = {"light": "#e4e7eb", "dark": "#2b323b"}
ERRORS = {"light": "rgba(31,35,40,0.75)", "dark": "rgba(230,232,235,0.85)"}
PAPER = {"light": "#ffffff", "dark": "#14181d"}


@cache
def template(mode: Mode = "light") -> go.layout.Template:
    """The plotly template of a mode; set explicitly on figures, never registered globally.

    Made once: plotly checks every entry of a new one, and a figure copies what it is given.
    """
    axis: dict[str, Any] = {
        "gridcolor": GRID[mode],
        "linecolor": GRID[mode],
        "zerolinecolor": GRID[mode],
        "zerolinewidth": 1,
        "ticks": "outside",
        "tickcolor": GRID[mode],
        "automargin": True,
        "title": {"standoff": 10, "font": {"size": 13, "color": MUTED[mode]}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12, "color": INK[mode]},
            "title": {
                "font": {"size": 15},
                "subtitle": {"font": {"size": 12, "color": MUTED[mode]}},
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "yref": "container",
                "y": 0.97,
                "yanchor": "top",
            },
            "paper_bgcolor": PAPER["light"] if mode == "light" else "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "bgcolor": "rgba(0,0,0,0)",
                "title": {"font": {"size": 12, "color": MUTED[mode]}},
            },
            "hoverlabel": {
                "bgcolor": PAPER[mode],
                "bordercolor": MUTED[mode],
                "font": {"family": FONT, "size": 12, "color": INK[mode]},
                "align": "left",
            },
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": GRID[mode],
                "activecolor": MUTED[mode],
            },
            "annotationdefaults": {"font": {"color": MUTED[mode], "size": 12}},
            "margin": {"l": 64, "r": 24, "t": 56, "b": 56},
        },
        # In the colour of their marker they would be dim on a dark page, and unseen inside a bar.
        data={kind: [{"error_y": {"color": ERRORS[mode]}}] for kind in ("bar", "scatter")},
    )


def dress(
    figure: go.Figure,
    *,
    title: str = "",
    subtitle: str = "",
    x_title: str = "",
    y_title: str = "",
    height: int = 400,
    mode: Mode = "light",
) -> go.Figure:
    """Put template, titles and size on a figure, in place, and return it.

    ``subtitle`` is the place for n, the metric's formula, and what was left out. Long ones, and
    long titles, are broken into lines, for which the figure grows: plotly would cut them at its
    edge.
    """
    title, subtitle, x_title, y_title = map(_as_text, (title, subtitle, x_title, y_title))
    under = "<br>".join(map(_broken, in_words(subtitle).split("<br>")))
    over = "<br>".join(textwrap.wrap(in_words(title), TITLE_WIDEST))
    more = LINE * under.count("<br>") + TITLE_LINE * over.count("<br>")
    text = {"text": over, "subtitle": {"text": under}}
    figure.update_layout(
        template=template(mode),
        title=text if title or subtitle else None,
        height=height + more,
        margin={"t": 72 + more if subtitle else (56 if title else 24)},
    )
    figure.update_xaxes(title={"text": x_title})
    figure.update_yaxes(title={"text": y_title})
    return figure


def _as_text(text: str) -> str:
    """Words of a model in a title stay words: plotly would strike all out from a token ``<s>`` on.

    Breaks of lines are ours; an ``&`` is let be, since names may come escaped.
    """
    return re.sub(r"<(?!br>)", "&lt;", isolated(text))


def _broken(text: str) -> str:
    """Lines that fit a figure half a page wide; a part between dots stays whole where it can."""
    if len(text) <= WIDEST:
        return text
    lines = [""]
    for part in text.split(" · "):
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(joined) <= WIDEST:
            lines[-1] = joined
        else:
            lines += textwrap.wrap(part, WIDEST, break_on_hyphens=False)
    lines = [line for line in lines if line]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "… and more, in the result's summary and controls"]
    return "<br>".join(lines)


def colour(index: int) -> str:
    """Colour of the ``index``-th series (they repeat after eight; so do not draw more)."""
    return PALETTE[index % len(PALETTE)]


def shade(index: int, alpha: float) -> str:
    """The same colour with an opacity in [0, 1], for error bands."""
    red, green, blue = (int(colour(index)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
