"""Scores of every measure in one long table: the dictionaries and, beside them, every control.

A row is a measure, a dictionary, a metric and a source. The source ``dictionary`` is the dictionary
itself; every other source is what the same procedure gives where little or nothing is to be found.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.errors import UnknownNameError
from lensbench.stats import Interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAN = float("nan")
ITSELF = "dictionary"
SOURCES = (
    ITSELF, "chance", "random_dictionary", "reinitialised_twin", "shuffled_labels", "always_on",
    "current_token", "channels", "random_latents", "mean_activation", "permuted",
    "without_implant", "skip_alone",
)  # fmt: skip
"""Sources in the order they are shown."""
COLUMNS = ("measure", "name", "metric", "source", "value", "low", "high", "n", "unit")
HEADLINES = {
    "core": ("fvu",),
    "labels": ("F1",),
    "sparse_probing": ("AUROC, k=1",),
    "tpp": ("TPP, 20 latents",),
    "scr": ("SCR, 20 latents",),
    "absorption": ("absorbed fraction",),
    "splitting": ("latents per label",),
    "coverage": ("reconstruction",),
    "meta": ("variance explained",),
    "seeds": ("MMCS to other seeds", "MMCS from atoms"),
    "implants": ("implants recovered", "recovered at strength 1"),
}
"""The metric of each measure that is shown first (the first that was measured)."""


COUNTED = {
    "core": "documents", "labels": "labels", "sparse_probing": "labels", "tpp": "labels",
    "scr": "documents", "absorption": "labels", "splitting": "labels", "coverage": "labels",
    "meta": "latents", "seeds": "latents", "implants": "directions",
}  # fmt: skip
"""What the n of a measure counts (see :func:`counted`)."""


def counted(measure: str, metric: str) -> str:
    """What n counts: of coverage's reconstruction, which is a mean over rows, the documents."""
    return "documents" if metric == "reconstruction" else COUNTED.get(measure, "")


@dataclass(frozen=True)
class Score:
    """One number of one source."""

    metric: str
    source: str
    value: float
    low: float = NAN
    high: float = NAN
    n: int = 0
    """Units behind the value and its interval: documents, labels, latents, pairs."""
    unit: str = ""

    @classmethod
    def of(cls, metric: str, source: str, measured: Interval, unit: str = "") -> "Score":
        """The same from an interval."""
        m = measured
        return cls(metric, source, m.mean, m.low, m.high, m.n, unit)


def columns(rows: Iterable[tuple[str, str, Score]]) -> dict[str, Any]:
    """Columns of the table, from (measure, dictionary, score)."""
    listed = [(measure, name, s) for measure, name, s in rows]
    if not listed:
        return {}
    whole = [
        (m, name, s.metric, s.source, s.value, s.low, s.high, s.n, s.unit) for m, name, s in listed
    ]
    out: dict[str, Any] = {}
    for i, column in enumerate(COLUMNS):
        values = [row[i] for row in whole]
        kind = {"value": np.float64, "low": np.float64, "high": np.float64, "n": np.int64}
        out[column] = np.array(values, kind[column]) if column in kind else values
    return out


def frame_of(table: Mapping[str, Any]) -> "pd.DataFrame":
    """The table as a frame."""
    import pandas as pd

    return pd.DataFrame({c: list(table.get(c, ())) for c in COLUMNS})


def headline(frame: "pd.DataFrame", measure: str, metric: str = "") -> str:
    """The metric of a measure to show: the one that is named, else its headline.

    Raises:
        UnknownNameError: a measure or a metric that was not measured.
    """
    known = list(dict.fromkeys(frame["measure"]))
    if measure not in known:
        raise UnknownNameError("measure", measure, known=known)
    there = list(dict.fromkeys(frame.loc[frame["measure"] == measure, "metric"]))
    if metric:
        if metric not in there:
            raise UnknownNameError(f"metric of {measure}", metric, known=there)
        return metric
    return next((m for m in HEADLINES.get(measure, ()) if m in there), there[0])


def beside(frame: "pd.DataFrame", measure: str, metric: str = "") -> "pd.DataFrame":
    """One row per dictionary: its value with interval and n, then a column for every control."""
    import pandas as pd

    metric = headline(frame, measure, metric)
    part = frame.loc[(frame["measure"] == measure) & (frame["metric"] == metric)]
    sources = [s for s in SOURCES if s in set(part["source"])]
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(part["name"]):
        here = part.loc[part["name"] == name].set_index("source")
        own = here.loc[ITSELF] if ITSELF in here.index else None
        row: dict[str, Any] = {"dictionary": name, metric: NAN, "low": NAN, "high": NAN, "n": 0}
        if own is not None:
            row |= {metric: own["value"], "low": own["low"], "high": own["high"], "n": own["n"]}
        for source in sources:
            if source != ITSELF:
                row[source] = float(here.loc[source, "value"]) if source in here.index else NAN
        rows.append(row)
    out = pd.DataFrame(rows)
    out.attrs["units"] = {metric: next(iter(part["unit"]), "")}
    return out


def picture(frame: "pd.DataFrame", measure: str, metric: str = "", note: str = "") -> "go.Figure":
    """Every dictionary with its interval, and every control beside it."""
    from lensbench.plots import scatter

    metric = headline(frame, measure, metric)
    part = frame.loc[(frame["measure"] == measure) & (frame["metric"] == metric)]
    order = [s for s in SOURCES if s in set(part["source"])]
    part = part.assign(
        source=[s.replace("_", " ") for s in part["source"]],
        rank=[order.index(s) for s in part["source"]],
        name=_short([str(name) for name in part["name"]]),
    )
    part = part.sort_values("rank", kind="stable").reset_index(drop=True)
    part.attrs["units"] = {"value": next(iter(part["unit"]), "")}
    n = int(np.asarray(part["n"]).max())
    labels = {"value": metric[:1].upper() + metric[1:], "name": "dictionary", "source": "scored"}
    title = measure.upper() if measure in ("tpp", "scr") else measure.replace("_", " ").capitalize()
    told = note or f"n = {n:,} {counted(measure, metric)}; bars: 95 % intervals"
    drawn = scatter(
        part, x="name", y="value", color="source", low="low", high="high", labels=labels,
        title=title, subtitle=told, hover_columns=["n"],
    )  # fmt: skip
    _place(drawn, len(set(part["name"])))
    return drawn


def _place(figure: "go.Figure", n: int) -> None:
    """Controls side by side with what they control, hollow, so that none hides another."""
    from lensbench.plots.theme import SYMBOLS, colour

    traces: Any = figure.data
    shifts = np.linspace(-0.3, 0.3, len(traces)) if len(traces) > 1 else [0.0]
    names = list(dict.fromkeys(x for trace in traces for x in trace.x))
    for trace, shift in zip(traces, shifts, strict=True):
        # A source looks the same in every figure.
        place = SOURCES.index(str(trace.name).replace(" ", "_"))
        trace.marker.color, trace.marker.symbol = colour(place), SYMBOLS[place % len(SYMBOLS)]
        trace.error_y.color = colour(place)
        trace.x = [names.index(x) + float(shift) for x in trace.x]
        if trace.name != ITSELF:
            trace.marker.symbol = f"{trace.marker.symbol}-open"
            trace.marker.line = {"width": 2}
    figure.update_xaxes(tickvals=list(range(n)), ticktext=names, range=[-0.6, n - 0.4],
                        showgrid=False)  # fmt: skip
    for at in np.arange(n - 1) + 0.5:
        figure.add_vline(x=float(at), line={"width": 1, "color": "rgba(140,140,140,0.25)"})


def _short(names: Sequence[str]) -> list[str]:
    """Names without the parts that all of them share, split at dashes."""
    parts = {name: name.split("-") for name in names}
    if len(parts) < 2:
        return list(names)
    common = set.intersection(*(set(p) for p in parts.values()))
    short = {name: "-".join(w for w in p if w not in common) for name, p in parts.items()}
    whole = len(set(short.values())) == len(parts) and all(short.values())
    return [short[name] if whole else name for name in names]
