"""The dictionaries of one run, or of several that were evaluated alike: what was varied, one front.

What one run alone reached is in ``fronts``; this file puts runs side by side, and shows a run that
was not evaluated by the numbers of its training.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.curves import flat, settings_of, spelled
from lensbench.app.workflows.finding import read_json
from lensbench.app.workflows.fronts import FRONTS, drawable, front_frame, score_table
from lensbench.app.workflows.run_compare import dictionaries
from lensbench.app.workflows.runs import parts_of
from lensbench.app.workflows.sections import short_names
from lensbench.saes.evaluation.front import front
from lensbench.saes.evaluation.result import SAEEvaluation
from lensbench.saes.runs import CONFIG_FILE, UNITS, last_window, read_history
from lensbench.words import SPELLED

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNSET = "not set"


def varied(runs: Mapping[str, Path]) -> pd.DataFrame:
    """One row per dictionary: the settings in which any two of them differ, and those alone.

    Settings of training stand in it where runs differ in them. What differs only because
    architectures have other defaults is left out: nobody varied it.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    asked: set[str] = set()
    for label, run in runs.items():
        settings = settings_of(run)
        asked |= {k.rpartition(".")[2] for k in settings if k.startswith("sweep")}
        shared = {k: v for k, v in settings.items() if k.startswith("train.")}
        for part in parts_of(run):
            for name in dictionaries(part):
                path = part / name / CONFIG_FILE
                own = flat(read_json(path)) if path.is_file() else {}
                rows[label, name] = {k: v for k, v in (own | shared).items() if k != "name"}
    keys = [k for k in dict.fromkeys(k for row in rows.values() for k in row)
            if _differ(rows.values(), k) and (k in asked or _within(list(rows.values()), k))
            ]  # fmt: skip
    keys.sort(key=lambda k: k != "architecture")
    short = short_names(list(dict.fromkeys(name for _, name in rows)))
    table = [
        {"run": label, "dictionary": short[name],
         **{k: row[k] if _is_number(row.get(k)) else spelled(row.get(k)) for k in keys}}
        for (label, name), row in rows.items()
    ]  # fmt: skip
    frame = pd.DataFrame(table, columns=["run", "dictionary", *keys])
    for column in keys:  # numbers stay numbers where all are, so that they sort as such
        if not all(map(_is_number, frame[column])):
            frame[column] = frame[column].map(str)
    return frame.drop(columns="run") if len(runs) < 2 else frame


def _differ(rows: Iterable[dict[str, Any]], key: str) -> bool:
    return len({spelled(row.get(key)) for row in rows}) > 1


def _within(rows: list[dict[str, Any]], key: str) -> bool:
    """Whether a setting differs among dictionaries of one architecture."""
    kinds = {row.get("architecture") for row in rows}
    return any(_differ((r for r in rows if r.get("architecture") == k), key) for k in kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def differs(first: SAEEvaluation, other: SAEEvaluation) -> str:
    """Why the numbers of two evaluations do not belong in one figure; empty where they do."""
    if first.provenance.store != other.provenance.store:
        return "it was evaluated on another store"
    if (first.n_tokens, first.n_scored) != (other.n_tokens, other.n_scored):
        return f"it was evaluated on {other.n_tokens:,} tokens, not {first.n_tokens:,}"
    if set(first.sites).isdisjoint(other.sites):
        return f"its site is {', '.join(dict.fromkeys(other.sites))}"
    return ""


def alike(first: SAEEvaluation, others: Mapping[str, SAEEvaluation]) -> dict[str, str]:
    """Those of ``others`` that do not compare with ``first``, and why."""
    return {name: why for name, other in others.items() if (why := differs(first, other))}


def metrics_of(results: Mapping[str, SAEEvaluation]) -> dict[str, str]:
    """Metrics that can be drawn of every result, and their names."""
    known = [drawable(result) for result in results.values()]
    return {m: name for m, name in known[0].items() if all(m in other for other in known)}


def fronts_frame(results: Mapping[str, SAEEvaluation], metric: str) -> pd.DataFrame:
    """``front_frame`` of every result in one: series are named by run where there are several.

    The control's row is the strongest of them.

    Raises:
        UnknownNameError: a metric that one of them was not measured by.
    """
    frames = {name: front_frame(result, metric) for name, result in results.items()}
    if len(frames) == 1:
        return next(iter(frames.values()))
    own: list[pd.DataFrame] = []
    controls: list[pd.DataFrame] = []
    for name, frame in frames.items():
        kept = frame.loc[frame["architecture"] != "control"].copy()
        kept["architecture"] = [f"{name}: {kind}" for kind in kept["architecture"]]
        own.append(kept)
        controls.append(frame.loc[frame["architecture"] == "control"])
    rows = pd.concat(controls, ignore_index=True).sort_values(
        metric, ascending=FRONTS[metric][0] == "min", na_position="last"
    )
    whole = pd.concat([*own, rows.head(1)], ignore_index=True)
    whole.attrs["units"] = next(iter(frames.values())).attrs["units"]
    return whole


def scores(results: Mapping[str, SAEEvaluation]) -> pd.DataFrame:
    """Every metric of every dictionary of every result."""
    tables = [score_table(result) for result in results.values()]
    units = {k: v for table in tables for k, v in table.attrs["units"].items()}
    if len(tables) > 1:
        tables = [table.assign(run=name) for name, table in zip(results, tables, strict=True)]
        whole = pd.concat(tables, ignore_index=True)
        whole = pd.DataFrame(whole[["run", *[c for c in whole if c != "run"]]])
    else:
        whole = tables[0]
    whole.attrs["units"] = units
    return whole


def heading(column: str) -> str:
    """A column of scores as people write it: ``ce_recovered_zero`` is CE recovered (zero)."""
    known = {"l0": "L0", "fvu": "FVU", "mse": "MSE", "l2_ratio": "L2 ratio", "n": "n",
             "label_f1": "Label F1", "d_sae": "Latents"}  # fmt: skip
    if column in known:
        return known[column]
    if column.startswith("kl_") and column in SPELLED:
        return SPELLED[column]
    words = column.split("_")
    if words[-1] in ("zero", "mean") and "recovered" in words:
        words[-1] = f"({words[-1]})"
    said = " ".join(w.upper() if w in ("ce", "kl") else w for w in words)
    return said[:1].upper() + said[1:]


def training_frame(run: Path) -> pd.DataFrame:
    """Last logged means of every dictionary of a run, as a front: no interval and no control.

    ``n`` counts the steps that a mean is over.
    """
    rows: list[dict[str, Any]] = []
    for part in parts_of(run):
        for name in dictionaries(part):
            lines = read_history(part / name)
            path = part / name / CONFIG_FILE
            config = read_json(path) if path.is_file() else {}
            last = lines[-1] if lines else {}
            if "l0" in last and "fvu" in last:
                rows.append({
                    "name": name, "architecture": str(config.get("architecture", "unknown")),
                    "d_sae": int(config.get("d_sae") or 0), "l0": last["l0"], "fvu": last["fvu"],
                    "dead_fraction": last.get("dead_fraction"), "tokens": last.get("tokens"),
                    "low": np.nan, "high": np.nan,
                    "n": last_window(line["step"] for line in lines),
                })  # fmt: skip
    columns = ["name", "architecture", "d_sae", "l0", "fvu", "dead_fraction", "tokens", "low",
               "high", "n"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs["units"] = {"l0": UNITS["l0"], "fvu": UNITS["fvu"], "n": "steps"}
    return frame


def training_figure(frame: pd.DataFrame) -> "go.Figure":
    """FVU against L0 as training logged them last."""
    figure = front(frame, "fvu", best="min", title="FVU against L0, by training alone",
                   subtitle="no interval, no control: means over the last steps")  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": -0.24, "title": {"text": ""}})
    return figure


def training_code(run: Path) -> str:
    """Python that draws the same figure."""
    return (
        "from pathlib import Path\n\n"
        "from lensbench.app.workflows.sweep_page import training_figure, training_frame\n\n"
        f"training_figure(training_frame(Path({str(run)!r})))\n"
    )
