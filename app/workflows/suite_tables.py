"""Measures of the quality suite that an evaluation holds, as tables: absorption, splitting, ...

An evaluation of an older version, or one that was not asked for them, holds none.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensbench.app.workflows.sections import short_names

FIRST = ("absorption", "splitting")
TITLES = {
    "absorption": "Absorption",
    "splitting": "Feature splitting",
    "sparse_probing": "Sparse probing",
    "tpp": "TPP",
    "scr": "SCR",
    "coverage": "Coverage",
    "meta": "Meta-SAE",
    "isolation": "Attribute isolation",
}
NOTES = {
    "absorption": "Absorbed fraction: how much of a label's direction other latents write where "
    "the label's own are weak (fully: those are silent). Lower is better. Several latents of a "
    "label: it is split. Labels that could not be scored say why.",
    "splitting": "Latents that share a label: each next one is counted while it lifts the F1 of a "
    "probe on them by more than 0.03. One is no splitting.",
}


def measures_of(result: Any) -> dict[str, str]:
    """Measures with detailed results and their titles; absorption and splitting first."""
    held = _held(result)
    order = [m for m in FIRST if m in held] + [m for m in held if m not in FIRST]
    return {m: TITLES.get(m, m.replace("_", " ").capitalize()) for m in order}


def table_of(result: Any, measure: str) -> pd.DataFrame:
    """The rows of a measure's detailed results, one block per dictionary.

    Its columns are those of the results' own ``to_frame``; units are kept.
    """
    held = _held(result).get(measure, {})
    names = short_names(list(held))
    parts: list[pd.DataFrame] = []
    units: dict[str, str] = {}
    for name, found in held.items():
        part = found.to_frame()
        units |= {str(k): str(v) for k, v in part.attrs.get("units", {}).items()}
        part.insert(0, "of dictionary", names[name])
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    empty = [c for c in frame if set(frame[c].fillna("").astype(str)) <= {""}]
    frame = frame.drop(columns=empty)
    frame.attrs = {"units": units}
    return frame


def note_on(result: Any, measure: str) -> str:
    """What a table shows, its units and its controls."""
    held = _held(result).get(measure, {})
    units = table_of(result, measure).attrs["units"]
    told = [NOTES.get(measure, "")]
    if units:
        told.append("Units: " + "; ".join(f"{k}: {v}" for k, v in units.items()) + ".")
    names = short_names(list(held))
    controls = [f"{names[name]}: {found.controls}" for name, found in held.items()]
    told.append("Controls: " + "; ".join(controls) + ".")
    return " ".join(t for t in told if t)


def missing_of(result: Any) -> dict[str, str]:
    """Measures that were asked for and are not here, and why."""
    found: Any = getattr(result, "left_out", {})
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}


def _held(result: Any) -> dict[str, dict[str, Any]]:
    found: Any = getattr(result, "suite", {})
    return {str(m): dict(by_name) for m, by_name in found.items() if by_name}
