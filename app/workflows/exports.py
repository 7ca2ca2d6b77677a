"""A drawn figure as files that need nothing else: a page of HTML, a notebook, rows as JSON."""

import json
import re
from html import escape
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from lensbench.plots import CONFIG, template
from lensbench.plots.theme import INK, MUTED, PAPER, Mode

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:system-ui,'DejaVu Sans',sans-serif;margin:24px;color:{ink};\
background:{paper}}}p{{color:{muted};max-width:80ch;font-size:14px;white-space:pre-line}}</style>
</head><body>
<div role="img" aria-label="{alt}">{figure}</div>
<p>{caption}</p>
<p>{provenance}</p>
</body></html>
"""


def as_json(frame: pd.DataFrame, provenance: str = "") -> str:
    """Rows and units of a frame as one JSON document; absent numbers are null."""
    rows = json.loads(frame.to_json(orient="records", double_precision=15) or "[]")
    about = {"provenance": provenance, "units": frame.attrs.get("units", {})}
    return json.dumps({**about, "rows": rows}, indent=1)


def drawn_frame(figure: "go.Figure") -> pd.DataFrame:
    """What a figure draws, one row per point: its series, place and value."""
    parts: list[pd.DataFrame] = []
    for trace in cast("Any", figure.data):
        axes = {axis: trace[axis] for axis in ("x", "y", "z") if axis in trace}
        if trace.visible is False or (trace.type == "scatter" and trace.marker.opacity == 0):
            continue  # what only takes clicks
        if "z" in axes:
            z = np.asarray(axes["z"])
            row, column = (i.ravel() for i in np.indices(z.shape))
            x, y = (np.asarray(axes.get(a) if axes.get(a) is not None else range(n))
                    for a, n in zip("xy", z.shape[::-1], strict=True))  # fmt: skip
            parts.append(pd.DataFrame({"series": trace.name, "x": x[column], "y": y[row],
                                       "value": z.ravel()}))  # fmt: skip
        elif axes:
            columns = {k: list(v) for k, v in axes.items() if v is not None}
            parts.append(pd.DataFrame({"series": trace.name or "", **columns}))
    if not parts:
        return pd.DataFrame({"series": [], "x": [], "y": []})
    return pd.concat(parts, ignore_index=True)


def as_html(
    figure: "go.Figure", *, alt: str, caption: str = "", provenance: str = "", mode: Mode = "light"
) -> str:
    """The figure on a page of its own (5 MB) that opens without a network and uploads nothing.

    ``caption`` is read as a page's Markdown is: what stands behind a backslash is meant as it is.
    """
    import plotly.graph_objects as go

    copy = go.Figure(figure)
    copy.update_layout(template=template(mode), paper_bgcolor=PAPER[mode])
    drawn = copy.to_html(full_html=False, include_plotlyjs=True, config=CONFIG)
    return _PAGE.format(
        title=escape(alt), alt=escape(alt), figure=drawn, caption=escape(unmarked(caption)),
        provenance=escape(provenance), ink=INK[mode], paper=PAPER[mode], muted=MUTED[mode],
    )  # fmt: skip


def as_notebook(code: str, *, title: str, caption: str = "", provenance: str = "") -> str:
    """A notebook (nbformat 4.5) of one figure: what it is, and the code that draws it.

    ``title`` and ``caption`` are Markdown. It has no outputs; it runs from the folder in which the
    paths that the code names are valid.
    """
    said = "\n\n".join(
        part for part in (f"# {title}", caption, f"`{provenance}`" if provenance else "") if part
    )
    cells = [
        {"cell_type": "markdown", "id": "what", "metadata": {}, "source": _lines(said)},
        {"cell_type": "code", "id": "draw", "metadata": {}, "execution_count": None,
         "outputs": [], "source": _lines(code.strip("\n"))},
    ]  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def unmarked(markdown: str) -> str:
    """A caption as plain text: escaped characters as they are, emphasis and code without marks."""
    bare = re.sub(r"(?<!\\)(\*\*|`)", "", markdown)
    return re.sub(r"\\([\\`*_{}\[\]()#+\-!<>$~|:.])", r"\1", bare)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
