"""Pictures and tables of two runs side by side; what is compared is in ``run_compare``."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench import plots
from lensbench.app.workflows.curves import LINEAR, TITLES, curves_of
from lensbench.app.workflows.densities import density_curves, density_curves_figure
from lensbench.app.workflows.latent_page import dictionary_of
from lensbench.app.workflows.run_compare import METRICS, Side
from lensbench.app.workflows.runs import evaluation_of
from lensbench.app.workflows.sections import short_names
from lensbench.errors import ConfigError
from lensbench.plots.theme import DASHES, PALETTE
from lensbench.saes.evaluation.seeds import DictionaryMatch, match_dictionaries
from lensbench.saes.runs import UNITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

QUICK_PAIRS, MOST_PAIRS = 2048**2, 16384**2
"""Pairs of latents matched without being asked, and at most, on a page."""


def numbers_table(left: Side, right: Side, numbers: pd.DataFrame) -> pd.DataFrame:
    """One row per dictionary (or, of two dictionaries, per metric), to read: value [interval]."""
    own = numbers.loc[numbers["source"] == "dictionary"]
    if left.dictionary and right.dictionary:
        return _by_metric(left, right, numbers)
    rows: list[dict[str, str]] = []
    for (side, name), part in own.groupby(["side", "dictionary"], sort=False):
        cells = {str(r["metric"]): in_words(r) for r in part.to_dict("records")}
        rows.append({"run": str(side), "dictionary": str(name), **cells,
                     "measured by": str(part["measured by"].iloc[0])})  # fmt: skip
    metrics = [m for m in METRICS.values() if any(m in row for row in rows)]
    table = pd.DataFrame(rows, columns=["run", "dictionary", *metrics, "measured by"])
    short = short_names(list(dict.fromkeys(table["dictionary"])))
    return table.assign(dictionary=table["dictionary"].replace(short)).fillna("not measured")


def _by_metric(left: Side, right: Side, numbers: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, str]] = []
    for metric in (m for m in METRICS.values() if m in set(numbers["metric"])):
        part = numbers.loc[numbers["metric"] == metric]
        row = {"metric": f"{metric} [{part['unit'].iloc[0]}]"}
        for side in (left, right):
            mine = part.loc[part["side"] == side.name]
            cells = mine.to_dict("records")
            row[side.name] = next((in_words(r) for r in cells if str(r["source"]) == "dictionary"),
                                  "not measured")  # fmt: skip
            others = [f"{r['source']} {float(r['value']):.4g}" for r in cells
                      if str(r["source"]) != "dictionary" and np.isfinite(float(r["value"]))
                      ]  # fmt: skip
            row[f"controls of {side.name}"] = ", ".join(others) or "none"
        rows.append(row)
    own = [left.name, right.name]
    return pd.DataFrame(rows, columns=["metric", *own, *(f"controls of {name}" for name in own)])


def in_words(row: dict[Any, Any]) -> str:
    """``0.0712 [0.0699, 0.0724]``, or the value alone where it has no interval."""
    if row["value"] is None or row["value"] != row["value"]:
        return "not measured"
    known = row["low"] == row["low"] and row["low"] is not None and row["low"] != row["high"]
    interval = f" [{row['low']:.4g}, {row['high']:.4g}]" if known else ""
    return f"{row['value']:.4g}{interval}"


def both_curves(left: Side, right: Side) -> pd.DataFrame:
    """What both have logged: side, name, tokens, and the curves."""
    parts: list[pd.DataFrame] = []
    for side in (left, right):
        frame = curves_of(side.run)
        every = frame.attrs["every"]
        own = frame.loc[frame["name"].isin(side.names)].assign(side=side.name)
        own.attrs["every"] = every
        parts.append(own)
    kept = [part for part in parts if len(part)] or parts[:1]
    whole = pd.concat(kept, ignore_index=True)
    whole.attrs["every"] = max([1, *(int(part.attrs["every"]) for part in kept)])
    return whole


def overlay(
    frame: pd.DataFrame, left: Side, right: Side, metric: str
) -> "tuple[go.Figure, pd.DataFrame]":
    """One line per dictionary: solid for one side, dashed for the other; and what is drawn.

    Dictionaries of one name have one colour on both sides.
    """
    short = short_names(list(dict.fromkeys([*left.names, *right.names])))
    linear = metric in LINEAR
    drawn = frame.loc[frame[metric].notna() if linear else frame[metric] > 0].copy()
    held = {left.name: left, right.name: right}
    drawn["line"] = [_line(held[s], n, short) for s, n in
                     zip(drawn["side"], drawn["name"], strict=True)]  # fmt: skip
    drawn = pd.DataFrame(drawn[["line", "side", "name", "tokens", metric]])
    drawn.attrs["units"] = {metric: UNITS[metric], "tokens": ""}
    figure = plots.lines(
        drawn, x="tokens", y=metric, color="line", log_y=not linear, markers=False, height=440,
        labels={**TITLES, "tokens": "training tokens"},
        title=f"{TITLES.get(metric, metric)} while training",
        subtitle=f"solid: {left.name}; dashed: {right.name}",
    )  # fmt: skip
    return _paired(figure, left, right), drawn


def _paired(figure: "go.Figure", left: Side, right: Side) -> "go.Figure":
    """Solid and dashed for the two sides; dictionaries of one name in one colour."""
    lines = {(left.name, 0): left, (right.name, 1): right}
    names = list(dict.fromkeys([*left.names, *right.names]))
    short = short_names(names)
    styles = {
        _line(side, n, short): (at if side.dictionary else names.index(n), at)
        for (_, at), side in lines.items() for n in side.names
    }  # fmt: skip
    traces: Any = figure.data
    for trace in traces:
        if trace.name in styles:
            colour, dash = styles[trace.name]
            trace.line = {"color": PALETTE[colour % len(PALETTE)], "dash": DASHES[dash], "width": 2}
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "title": {"text": ""}})
    return figure


def _line(side: Side, name: str, short: dict[str, str]) -> str:
    """What a line is called: the side, and where it is a whole run the dictionary."""
    return side.name if side.dictionary else f"{side.name}: {short[name]}"


def both_densities(left: Side, right: Side) -> pd.DataFrame:
    """How often the latents of both fire (see ``densities``); empty where none was evaluated."""
    held: dict[str, np.ndarray] = {}
    short = short_names(list(dict.fromkeys([*left.names, *right.names])))
    for side in (left, right):
        result = evaluation_of(side.run)
        known = {} if result is None else result.density
        held |= {_line(side, n, short): d for n, d in known.items() if n in side.names}
    return density_curves(held)


def density_overlay(frame: pd.DataFrame, left: Side, right: Side) -> "go.Figure":
    """The picture of :func:`both_densities`: solid for one side, dashed for the other."""
    return _paired(density_curves_figure(frame), left, right)


def curve_note(frame: pd.DataFrame, left: Side, right: Side) -> str:
    """What a point of :func:`overlay` is, and how many dictionaries there are on each side."""
    counts = [(s.name, int(frame.loc[frame["side"] == s.name, "name"].nunique()))
              for s in (left, right)]  # fmt: skip
    every = int(frame.attrs["every"])
    left_out = f" Every {every}-th line is drawn, and the last one." if every > 1 else ""
    return (
        f"n = {' and '.join(f'{n} of {name}' for name, n in counts)}; a point is a mean over the "
        f"steps since the one before.{left_out} Training has no control."
    )


def matched(left: Side, right: Side) -> DictionaryMatch:
    """The latents of two dictionaries by the cosine of their decoder rows, with controls.

    Raises:
        MismatchError: their sites are of different width.
        ConfigError: more pairs than a page should compute.
    """
    a, b = _coders(left, right)
    if a.d_sae * b.d_sae > MOST_PAIRS:
        raise ConfigError(
            f"{a.d_sae:,} x {b.d_sae:,} latents are too many to match on a page (at most "
            f"{MOST_PAIRS:,} pairs); in Python saes.match_dictionaries(a, b) does it"
        )
    return match_dictionaries(a, b)


def is_quick(left: Side, right: Side) -> bool:
    """Whether a matching takes about a second or less."""
    a, b = _coders(left, right)
    return a.d_sae * b.d_sae <= QUICK_PAIRS


def _coders(left: Side, right: Side) -> list[Any]:
    return [dictionary_of(side.run, side.dictionary).coder for side in (left, right)]


def match_figure(found: DictionaryMatch, left: Side, right: Side) -> "tuple[go.Figure, Any]":
    """How near the nearest latent of the other dictionary is, for every latent; and the data."""
    frame = nearest_frame(found, left, right)
    frame.attrs["units"] = {"cosine": "-1 to 1"}
    known = frame.dropna(subset=["cosine"])
    edges = np.linspace(-0.2, 1.0, 41)
    parts = [
        pd.DataFrame({"of": of, "cosine": (edges[1:] + edges[:-1]) / 2,
                      "share": np.histogram(part["cosine"].clip(-0.2, 1), edges)[0] / len(part)})
        for of, part in known.groupby("of", sort=False)
    ]  # fmt: skip
    drawn = pd.concat(parts, ignore_index=True)
    drawn.attrs["units"] = {"cosine": "-1 to 1", "share": "share of its latents"}
    figure = plots.lines(
        drawn, x="cosine", y="share", color="of", markers=False, height=380,
        labels={"cosine": "Cosine with the nearest latent of the other", "share": "latents"},
        title="How near the nearest latent is", subtitle="40 bins from -0.2 to 1",
    )  # fmt: skip
    chance = found.controls.values.get("MMCS A->random")
    if chance is not None:
        figure.add_vline(x=chance, line={"color": "#8C8C8C", "dash": "dash"},
                         annotation_text="random dictionary", annotation_position="top",
                         )  # fmt: skip
    return figure, drawn


def nearest_frame(found: DictionaryMatch, left: Side, right: Side) -> pd.DataFrame:
    """Every latent of either side and its nearest in the other, nearest first."""
    frame = found.latents_frame()
    frame["of"] = frame["of"].replace({"A": left.name, "B": right.name})
    return frame.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)


def match_note(found: DictionaryMatch, left: Side, right: Side) -> str:
    """The means of the matching in words, with intervals and controls."""
    means = {
        f"MMCS, {left.name} in {right.name}": found.mmcs_a_to_b,
        f"MMCS, {right.name} in {left.name}": found.mmcs_b_to_a,
        "one to one (Hungarian)": found.hungarian,
    }
    told = [f"{name}: {m.mean:.3f} [{m.low:.3f}, {m.high:.3f}], n = {m.n:,}"
            for name, m in means.items() if m.mean == m.mean]  # fmt: skip
    return (
        f"{'; '.join(told)}. MMCS: mean over latents of the largest cosine between decoder rows "
        f"(95 % bootstrap over latents). Controls: {found.controls}."
    )


def compare_code(left: Side, right: Side, draw: str) -> str:
    """Python that makes the same figure; ``draw`` are its last lines, of ``left`` and ``right``."""
    used = [n for n in ("both_curves", "both_densities", "density_overlay", "match_figure",
                        "matched", "nearest_frame", "overlay") if f"{n}(" in draw]  # fmt: skip
    more = "compared, " * ("compared(" in draw) + "reached, " * ("reached(" in draw)
    return (
        "from pathlib import Path\n\n"
        + f"from lensbench.app.workflows.compare_figures import {', '.join(used)}\n" * bool(used)
        + f"from lensbench.app.workflows.run_compare import {more}sides\n\n"
        f"one, other = Path({str(left.run)!r}), Path({str(right.run)!r})\n"
        f"left, right = sides(one, other, {left.dictionary!r}, {right.dictionary!r})\n"
        f"{draw}\n"
    )
