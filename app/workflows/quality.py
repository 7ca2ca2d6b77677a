"""The measures of an evaluation as tables for people, and labels read from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.app.workflows.latents import records
from lensbench.errors import ConfigError
from lensbench.saes.evaluation.result import SAEEvaluation
from lensbench.saes.evaluation.scores import counted, headline
from lensbench.saes.evaluation.scr import SpuriousRemoval
from lensbench.saes.evaluation.settings import MEASURES

CORE = ("l0", "fvu", "cosine", "ce_recovered_zero", "dead_fraction")


def read_labels(path: Path) -> dict[str, Any]:
    """Labels by name from a JSON file: lists of true and false (or 1 and 0).

    Raises:
        MissingDataError: no such file.
        ConfigError: no mapping of names to lists of truth values.
    """
    found = io.read_json(path)
    if not isinstance(found, dict) or not found:
        raise ConfigError(f'{path} must hold {{"name": [true, false, ...], ...}}')
    for name, values in found.items():
        if not isinstance(values, list) or not all(v in (True, False) for v in values):
            raise ConfigError(f"{path}: label {name!r} must be a list of true and false")
    return {str(name): np.array(values, bool) for name, values in found.items()}


def two_labels(text: str, suite: Sequence[str]) -> tuple[str, str]:
    """``A,B`` as two names, for the measures of ``suite``.

    Raises:
        ConfigError: not two, or scr is not among the measures.
    """
    if "scr" not in suite:
        raise ConfigError(
            f"--scr-labels {text} is for the measure scr, which --suite {','.join(suite)} does not "
            f"ask for; add it (--suite {','.join(suite)},scr), or leave --scr-labels out"
        )
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise ConfigError(f"--scr-labels names two different labels, such as A,B; got {text!r}")
    return names[0], names[1]


def core_controls(result: SAEEvaluation) -> list[dict[str, Any]]:
    """Core numbers of the controls: one row per source, means over dictionaries."""
    frame = result.to_frame()
    core = frame.loc[(frame["measure"] == "core") & (frame["source"] != "dictionary")]
    rows: list[dict[str, Any]] = []
    for source in dict.fromkeys(core["source"]):
        here = core.loc[core["source"] == source]
        row: dict[str, Any] = {"control": source.replace("_", " ")}
        for metric in CORE:
            values = np.asarray(here.loc[here["metric"] == metric, "value"], float)
            row[metric] = float(values.mean()) if len(values) else float("nan")
        rows.append(row)
    return rows


def measures_of(result: SAEEvaluation) -> list[dict[str, Any]]:
    """Each measure but core: its headline metric by dictionary, with interval and controls."""
    frame, out = result.to_frame(), list[dict[str, Any]]()
    for measure in result.measures[1:]:
        metric = headline(frame, measure)
        table = result.beside_controls(measure)
        there = dict.fromkeys(frame.loc[frame["measure"] == measure, "metric"])
        out.append(
            {
                "measure": measure,
                "asks": MEASURES[measure] + _pair(result, measure),
                "metric": metric,
                "unit": str(table.attrs["units"][metric]),
                "of": counted(measure, metric),
                "rows": records(table),
                "more": [m for m in there if m != metric],
            }
        )
    return out


def _pair(result: SAEEvaluation, measure: str) -> str:
    """Which two labels SCR is about, and how much there is to regain."""
    found = result.suite.get(measure, {}) if measure == "scr" else {}
    told: dict[str, None] = {}
    for one in found.values():
        if isinstance(one, SpuriousRemoval):
            read, by = one.labels[one.direction], one.labels[1 - one.direction]
            before, clean = one.biased[one.direction], one.clean[one.direction]
            told[f"{read}, freed of {by}; accuracy {before:.2f} biased, {clean:.2f} clean"] = None
    return f" ({'; '.join(told)})" if told else ""
