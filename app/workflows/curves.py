"""What a run has logged so far, and what it was asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench import plots
from lensbench.app.workflows.runs import sound_parts, sweep_file
from lensbench.app.workflows.sections import LABELS, short_names
from lensbench.config import load_yaml
from lensbench.saes.runs import UNITS, read_history, read_status

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST = 300
"""Points drawn per dictionary; of longer histories every n-th line is drawn, and the last one."""
CURVES = ("fvu", "l0", "dead_fraction", "loss", "lr", "grad_norm", "wait_fraction")
TITLES = {
    **LABELS,
    "dead_fraction": "Dead fraction",
    "loss": "Loss",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "wait_fraction": "Waiting for data",
}
LINEAR = ("dead_fraction", "lr", "wait_fraction")
"""Drawn with their zeros; the others have a logarithmic axis, where zero has no place."""


AXES = {"tokens": "training tokens", "step": "steps"}
COLOURED = 8
"""Dictionaries that are told apart by colour at first; the others are grey until chosen."""
GREY = "rgba(128,128,128,0.45)"


def curves_of(run: Path) -> pd.DataFrame:
    """One row per dictionary and logged line: name, step, tokens, and what was logged.

    ``attrs["every"]`` tells which lines are left out: 1 where none is.
    """
    rows: list[dict[str, Any]] = []
    every = 1
    for part in sound_parts(run):
        for name in read_status(part)["dictionaries"]:
            lines = read_history(part / name)
            stride = -(-len(lines) // MOST) or 1
            every = max(every, stride)
            kept = [line for i, line in enumerate(lines) if i % stride == 0 or i == len(lines) - 1]
            rows += [{"name": name, **line} for line in kept]
    frame = pd.DataFrame(rows, columns=["name", "step", "tokens", *CURVES, "seconds"])
    frame.attrs["units"] = {**UNITS, "wait_fraction": "share of the time"}
    frame.attrs["every"] = every
    return frame


def logged(frame: pd.DataFrame) -> dict[str, str]:
    """Curves that were logged, and their names."""
    return {m: TITLES[m] for m in CURVES if len(frame[m].dropna())}


def names_in(frame: pd.DataFrame) -> list[str]:
    """Dictionaries of a frame as figures call them, in order."""
    names = [str(name) for name in dict.fromkeys(frame["name"])]
    return [short_names(names)[name] for name in names]


def curve_figure(
    frame: pd.DataFrame, metric: str, *, over: str = "tokens", chosen: Sequence[str] = ()
) -> "tuple[go.Figure, pd.DataFrame]":
    """One line per dictionary over training tokens or steps, and exactly the rows drawn.

    Of more than :data:`COLOURED` dictionaries, those ``chosen`` (or the first so many) are coloured
    and named, the others thin and grey. Nothing is smoothed.
    """
    short = short_names([str(name) for name in dict.fromkeys(frame["name"])])
    linear = metric in LINEAR
    kept = frame[metric].notna() if linear else frame[metric] > 0
    drawn = frame.loc[kept, ["name", over, metric]].copy()
    drawn["name"] = drawn["name"].replace(short)
    units = {**UNITS, **frame.attrs.get("units", {})}
    drawn.attrs["units"] = {metric: units[metric], over: ""}
    named = [n for n in short.values() if n in chosen] or list(short.values())[:COLOURED]
    figure = plots.lines(
        drawn[drawn["name"].isin(named)], x=over, y=metric, color="name", log_y=not linear,
        markers=False, height=420, labels={**TITLES, **AXES}, unit=units[metric],
        title=f"{TITLES.get(metric, metric)} while training",
        subtitle="" if linear else "log axis",
    )  # fmt: skip
    for name, part in drawn[~drawn["name"].isin(named)].groupby("name", sort=False):
        figure.add_scatter(
            x=part[over].to_numpy(), y=part[metric].to_numpy(), name=str(name), mode="lines",
            line={"color": GREY, "width": 1}, showlegend=False,
            hovertemplate=f"<b>{name}</b><br>%{{x:,}}: %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
    figure.data = (*figure.data[len(named) :], *figure.data[: len(named)])  # colours on top
    figure.update_layout(
        legend={"orientation": "h", "y": -0.22, "title": {"text": ""}}, uirevision=f"{metric}{over}"
    )
    return figure, drawn


def caption(frame: pd.DataFrame) -> str:
    """What a point is, how many dictionaries there are, and what is left out."""
    every = int(frame.attrs.get("every", 1))
    left = f" One logged line in {every} is drawn, and the last one." if every > 1 else ""
    n = len(set(frame["name"]))
    grey = f" The other {n - COLOURED} are grey unless chosen." if n > COLOURED else ""
    return (
        f"n = {n} dictionaries on the same batches; a point is a mean over the steps since the one "
        f"before, not smoothed.{grey}{left} Training has no control; page Sweep has them."
    )


def settings_of(run: Path) -> dict[str, Any]:
    """What was asked for, as dotted keys: ``train.tokens``, ``sweep[0].k``."""
    asked = sweep_file(run)
    return {} if asked is None else flat(load_yaml(asked))


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
