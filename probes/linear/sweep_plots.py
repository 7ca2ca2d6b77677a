"""Pictures of a sweep: one label beside its controls, and maps of sites by what varies."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.errors import ConfigError
from lensbench.plots import heatmap, lines
from lensbench.probes.linear.sweep_result import BESIDE, UNITS, ProbeSweep
from lensbench.probes.site_axis import name_sites
from lensbench.words import spelled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_AXIS = "site, in execution order"


def by_site(sweep: ProbeSweep, label: str, position: str) -> "go.Figure":
    """Score of each method with its interval, and controls of the first method, by site.

    Raises:
        ConfigError: a label that was left out at that position; says why.
    """
    where = f" @{position}" if len(sweep.positions) > 1 else ""
    figure = lines(
        _beside(sweep, label, position), x="place", y="score", color="source",
        low="low", high="high", hover_columns=("site",), title=f"Probe of {_words(label)}{where}",
        subtitle=f"{sweep.dealt()}; {_seeds(sweep)}", labels={"place": _AXIS},
    )  # fmt: skip
    return name_sites(figure, dict(enumerate(sweep.sites)))


def by_label(sweep: ProbeSweep, column: str, position: str) -> "go.Figure":
    """One column of every label at every site, of the first method."""
    frame: Any = sweep.mean(column)
    kept = (frame["method"] == sweep.methods[0]) & (frame["position"] == position)
    where = f" @{position}" if len(sweep.positions) > 1 else ""
    return _map(sweep, frame[kept], "label", sweep.labels, column,
                f"Probes ({sweep.methods[0]}){where}", f"{int(kept.sum())} cells")  # fmt: skip


def by_position(sweep: ProbeSweep, label: str | None, column: str) -> "go.Figure":
    """One column at every site and position, of a label or the mean over those fitted everywhere.

    A label that one position has not would make its mean another thing there, so it is left out.
    """
    frame: Any = sweep.mean(column)
    frame = frame[frame["method"] == sweep.methods[0]]
    if label is None:
        everywhere = frame.groupby("label")["position"].nunique() == len(sweep.positions)
        kept = list(everywhere[everywhere].index)
        frame = frame[frame["label"].isin(kept)]
        keys = ["site", "position"]
        frame = frame.groupby(keys, sort=False)[column].agg(lambda x: x.mean(skipna=False))
        frame, what = frame.reset_index(), f"mean of {len(kept)} labels fitted at every position"
    else:
        frame, what = frame[frame["label"] == label], label
    named = dict(zip(sweep.positions, sweep.documents_at, strict=True))
    counts = ", ".join(f"{n:,} have {name}" for name, n in named.items())
    return _map(sweep, frame, "position", sweep.positions, column,
                f"Probes ({sweep.methods[0]}) by position: {what}", counts)  # fmt: skip


def _map(
    sweep: ProbeSweep, frame: pd.DataFrame, axis: str, names: tuple[str, ...], column: str,
    title: str, note: str,
) -> "go.Figure":  # fmt: skip
    sites: Any = frame["site"].map(sweep.sites.index)
    rows: Any = frame[axis].map(names.index)
    values = frame[column].to_numpy("float64")
    low = -1.0 if column == "selectivity" or (values < 0).any() else 0.0
    share = np.nanmax(np.abs(values), initial=0.0) <= 1.0  # else nats, or counts
    figure = heatmap(
        frame.assign(place=sites, number=rows), x="place", y="number", value=column,
        hover_columns=("site", axis), title=title, height=180 + 16 * len(names),
        subtitle=f"{sweep.dealt()}; {note}", labels={"number": axis, "place": _AXIS},
        unit=UNITS.get(column, ""), span=(low, 1.0) if share else None,
        diverging=low < 0,
    )  # fmt: skip
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=[_words(n) for n in names],
                        autorange="reversed")  # fmt: skip
    return name_sites(figure, dict(enumerate(sweep.sites)))


def _beside(sweep: ProbeSweep, label: str, position: str) -> pd.DataFrame:
    whole: Any = sweep.to_frame()
    frame = whole[(whole["label"] == label) & (whole["position"] == position)]
    frame = frame.assign(place=frame["site"].map(sweep.sites.index))
    if frame.empty:
        why = sweep.left_out.get(f"{label} @{position}", "it was not fitted there")
        raise ConfigError(f"no probe of {label!r} at position {position!r}: {why}")
    parts: list[Any] = []
    for method in sweep.methods:
        mine = frame[frame["method"] == method]
        for name in ("score", *BESIDE):
            if mine[name].isna().all() or (name in BESIDE and method != sweep.methods[0]):
                continue
            cols = [name, "low", "high"] if name == "score" else [name]
            part = mine.groupby(["place", "site"], sort=False)[cols].mean().reset_index()
            part = part.rename(columns={name: "score"})
            parts.append(part.assign(source=method if name == "score" else name))
    out = pd.concat(parts).reindex(columns=["place", "site", "score", "low", "high", "source"])
    numeric = not sweep.classes[sweep.labels.index(label)]
    out.attrs["units"] = {**UNITS, "score": "R^2" if numeric else spelled(sweep.metric)}
    return out


def _words(label: str) -> str:
    """A label's name as it is read."""
    return label.replace("_", " ")


def _seeds(sweep: ProbeSweep) -> str:
    n = len(sweep.seeds)
    return "one split" if n == 1 else f"means over {n} splits"
