"""What a page has drawn, each figure with what the page offers of it; and what a reader must find.

Every check gives its complaints as sentences, so that one visit of a page tells all of them.
"""

import ast
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.app.tiny_root import values

COUNTED = re.compile(
    r"\bn ?(?:=|up to) ?[\d,]+|\b[\d,]+ (?:\w+ )?(?:of [\d,]+ )?"
    r"(?:prompts?|prompt pairs?|texts?|tokens?|documents?|latents?|rows?|pairs?)\b"
)
SNAKE = re.compile(r"\b[a-z]{2,}(?:_[a-z]{2,})+")

GIVEN = re.compile(r"[\w.]*(?:resid_(?:pre|mid|post)|mlp_out|attn_out)|\b(?:is|starts)_\w+")
"""Names of sites and of a text's labels: these are what a user types."""


@dataclass
class Drawn:
    """A figure with its alt text, and the files offered under the same key."""

    figure: Any
    alt: str
    files: dict[str, Any] = field(default_factory=dict)

    def text(self, kind: str) -> str:
        made = self.files[kind]
        return str(made() if callable(made) else made)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.read_csv(io.StringIO(self.text("csv")), keep_default_na=False,
                           na_values=["", "nan", "NaN"])  # fmt: skip

    @property
    def notebook(self) -> dict[str, Any]:
        return json.loads(self.text("notebook"))

    @property
    def code(self) -> str:
        return "".join(self.notebook["cells"][1]["source"])

    @property
    def told(self) -> str:
        return "".join(self.notebook["cells"][0]["source"])


def watch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Drawn]:
    """Fills with every figure, by its widget key, while pages are drawn."""
    import streamlit as st

    draw, seen = st.plotly_chart, dict[str, Drawn]()

    def chart(figure: Any, *args: Any, key: str, alt: str = "", **more: Any) -> Any:
        seen[key] = Drawn(figure, alt)
        return draw(figure, *args, key=key, alt=alt, **more)

    def button(_label: str, data: Any, name: str, *_: Any, key: str = "", **__: Any) -> None:
        owner, _, kind = key.rpartition("-")
        if owner in seen:
            seen[owner].files |= {kind: data, f"{kind} name": name}

    monkeypatch.setattr(st, "plotly_chart", chart)
    monkeypatch.setattr(st, "download_button", button)
    return seen


def run_code(code: str) -> Any:
    """The value of the last line, as a notebook shows it, in a namespace of its own."""
    tree = ast.parse(code)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr), "the last line must show the figure"
    space: dict[str, Any] = {}
    exec(compile(tree, "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space)


def series(figure: Any, among: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Name and numbers of every trace; what only takes clicks is left out."""
    traces = figure.data if among is None else among
    kept = [t for t in traces if t.type != "scatter" or t.marker.opacity != 0]
    return [(t.type, t.name or "", *(_array(t[axis]) for axis in ("x", "y", "z") if axis in t))
            for t in kept]  # fmt: skip


def different(one: Any, other: Any) -> list[str]:
    """In what two figures show other numbers."""
    first, second = series(one), series(other)
    if [s[:2] for s in first] != [s[:2] for s in second]:
        return [f"the code draws {[s[:2] for s in second]}, the page {[s[:2] for s in first]}"]
    out: list[str] = []
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a[2:], b[2:], strict=True):
            same = x.shape == y.shape and x.dtype.kind == y.dtype.kind and (
                np.allclose(x, y, rtol=1e-3, atol=1e-4, equal_nan=True)
                if x.dtype.kind == "f" else (x == y).all())  # fmt: skip
            if not same:
                out.append(f"{a[:2]}: the code has {y.ravel()[:5]}, the page {x.ravel()[:5]}")
    return out


def not_in_frame(figure: Any, frame: pd.DataFrame) -> list[str]:
    """Numbers and names that are drawn but are in no column of the CSV."""
    numbers = frame.select_dtypes("number").to_numpy(np.float64).ravel()
    known = np.unique(numbers[np.isfinite(numbers)])
    words = {str(v) for c in frame.columns for v in frame[c]}
    out: list[str] = []
    shown = [t for t in figure.data if t.type != "scatter" or t.hoverinfo != "skip"]
    for kind, name, *axes in series(figure, shown):
        for letter, axis in zip("xyz", axes, strict=False):
            if letter != "z" and figure.layout[f"{letter}axis"].ticktext is not None:
                continue  # places of words, not numbers
            if axis.dtype.kind != "f":
                lost = {str(v).removeprefix("#") for v in axis.ravel() if v is not None} - words
                out += [f"{kind} {name!r}: {sorted(lost)[:4]} are not in the CSV"] if lost else []
                continue
            flat = axis[np.isfinite(axis)].ravel()
            if not len(known):
                out += [f"{kind} {name!r}: the CSV has no numbers"] if len(flat) else []
                continue
            at = np.clip(np.searchsorted(known, flat), 1, max(len(known) - 1, 1))
            near = np.minimum(np.abs(known[at - 1] - flat),
                              np.abs(known[np.minimum(at, len(known) - 1)] - flat))  # fmt: skip
            lost = flat[near > 1e-5 + 1e-4 * np.abs(flat)]
            if len(lost):
                out.append(f"{kind} {name!r}: {lost[:4]} are not in the CSV")
    return out


def ill_told(drawn: Drawn) -> list[str]:
    """What a reader misses: alt text, n, axis titles, words instead of names of columns."""
    layout = drawn.figure.layout
    if not drawn.figure.data:
        return ["no data is drawn"]
    title, under = layout.title.text or "", layout.title.subtitle.text or ""
    out = [] if len(drawn.alt) > 10 else [f"alt text {drawn.alt!r}"]
    caption = drawn.told if "notebook" in drawn.files else ""
    if not COUNTED.search(f"{under} {caption}"):
        out.append(f"n is not stated: {under!r} {caption!r}")
    axes = {"x axis": layout.xaxis.title.text, "y axis": layout.yaxis.title.text}
    out += [f"no title of the {name}" for name, text in axes.items() if not text]
    texts = [("title", title), ("subtitle", under), *axes.items()]
    texts += [("colour bar", bar.title.text) for t in drawn.figure.data if (bar := _bar(t))]
    texts += [("series", t.name) for t in drawn.figure.data]
    out += [f"{name} says {text!r}" for name, text in texts
            if SNAKE.search(GIVEN.sub("", text or ""))]  # fmt: skip
    for trace in drawn.figure.data:
        if trace.type == "heatmap":
            ends = (trace.zmin, trace.zmax)
            out += [f"colour range {ends} is not fixed"] if None in ends else []
            if np.nanmin(values(trace.z)) < 0 and None not in ends:
                out += [f"not centred at 0: {ends}"] if ends[0] != -ends[1] else []
    return out


def _bar(trace: Any) -> Any:
    if trace.type == "heatmap":
        return trace.colorbar if trace.showscale is not False else None
    marker = trace.marker if trace.type in ("scatter", "scattergl") else None
    return marker.colorbar if marker is not None and marker.showscale else None


def _array(held: Any) -> np.ndarray:
    if held is None:
        return np.zeros(0)
    array = np.asarray(values(held))
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        return array.astype(object)
