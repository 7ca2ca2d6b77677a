"""What a run has logged so far, and what it was asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench import plots
from lensbench.app.workflows.launching import REQUEST_FILE
from lensbench.app.workflows.runs import parts_of
from lensbench.app.workflows.sections import LABELS, short_names
from lensbench.config import load_yaml
from lensbench.saes.runs import SWEEP_FILE, UNITS, read_history, read_status

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST = 300
"""Points drawn per dictionary; of longer histories every n-th line is drawn, and the last one."""
CURVES = ("fvu", "l0", "dead_fraction", "loss", "lr", "grad_norm")
TITLES = {
    **LABELS,
    "dead_fraction": "Dead fraction",
    "loss": "Loss",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
}
LINEAR = ("dead_fraction", "lr")
"""Drawn with their zeros; the others have a logarithmic axis, where zero has no place."""


def curves_of(run: Path) -> pd.DataFrame:
    """One row per dictionary and logged line: name, step, tokens, and what was logged.

    ``attrs["every"]`` tells which lines are left out: 1 where none is.
    """
    rows: list[dict[str, Any]] = []
    every = 1
    for part in parts_of(run):
        for name in read_status(part)["dictionaries"]:
            lines = read_history(part / name)
            stride = -(-len(lines) // MOST) or 1
            every = max(every, stride)
            kept = [line for i, line in enumerate(lines) if i % stride == 0 or i == len(lines) - 1]
            rows += [{"name": name, **line} for line in kept]
    frame = pd.DataFrame(rows, columns=["name", "step", "tokens", *CURVES, "seconds"])
    frame.attrs["units"] = {**UNITS, "tokens": "training tokens"}
    frame.attrs["every"] = every
    return frame


def logged(frame: pd.DataFrame) -> dict[str, str]:
    """Curves that were logged, and their names."""
    return {m: TITLES[m] for m in CURVES if len(frame[m].dropna())}


def curve_figure(frame: pd.DataFrame, metric: str) -> "tuple[go.Figure, pd.DataFrame]":
    """One line per dictionary over training tokens, and exactly the rows that are drawn."""
    short = short_names(list(dict.fromkeys(frame["name"])))
    linear = metric in LINEAR
    kept = frame[metric].notna() if linear else frame[metric] > 0
    drawn = frame.loc[kept, ["name", "tokens", metric]].copy()
    drawn["name"] = drawn["name"].replace(short)
    drawn.attrs["units"] = {metric: UNITS[metric], "tokens": ""}
    figure = plots.lines(
        drawn, x="tokens", y=metric, color="name", log_y=not linear, markers=False, height=420,
        labels={**TITLES, "tokens": "training tokens"},
        title=f"{TITLES.get(metric, metric)} while training",
    )  # fmt: skip
    figure.update_layout(
        legend={"orientation": "h", "y": -0.22, "title": {"text": ""}}, uirevision=metric
    )
    return figure, drawn


def curve_code(run: Path, metric: str) -> str:
    """Python that draws the same figure."""
    return (
        "from pathlib import Path\n\n"
        "from lensbench.app.workflows.curves import curve_figure, curves_of\n\n"
        f"figure, data = curve_figure(curves_of(Path({str(run)!r})), {metric!r})\nfigure\n"
    )


def caption(frame: pd.DataFrame) -> str:
    """What a point is, how many dictionaries there are, and what is left out."""
    every = int(frame.attrs.get("every", 1))
    left = f" Every {every}-th line is drawn, and the last one." if every > 1 else ""
    return (
        f"n = {frame['name'].nunique()} dictionaries on the same batches; a point is a mean over "
        f"the steps since the one before.{left} Training has no control; page Sweep has them."
    )


def settings_of(run: Path) -> dict[str, Any]:
    """What was asked for, as dotted keys: ``train.tokens``, ``sweep[0].k``."""
    first = parts_of(run)[0]
    path = first / SWEEP_FILE
    return flat(load_yaml(path if path.is_file() else first / REQUEST_FILE))


def spelled(value: Any) -> str:
    """A setting as people write it: no brackets, quotes, ``None`` or ``True``."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(spelled(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(tree: Any, where: str = "") -> dict[str, Any]:
    """A tree as one level of dotted keys; lists of plain values stay whole."""
    if isinstance(tree, Mapping):
        parts = [flat(v, f"{where}.{k}".lstrip(".")) for k, v in tree.items()]
    elif isinstance(tree, list) and any(isinstance(v, Mapping) for v in tree):
        parts = [flat(v, f"{where}[{i}]") for i, v in enumerate(tree)]
    else:
        return {where: tree}
    return {k: v for part in parts for k, v in part.items()}
