"""Every number of a measure of geometry, with what it stands for."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from lensbench.app.widgets.listing import show_listing
from lensbench.words import spelled

HEADINGS = {
    "anisotropy": {
        "source": "Store", "site": "Site", "rows": "Tokens", "anisotropy": "Anisotropy",
        "isotropic": "If isotropic", "largest_norm": "Largest norm", "n_massive": "Massive rows",
        "n": "n", "control": "Control",
    },
    "dimension": {
        "source": "Store", "site": "Site", "estimator": "Estimator", "n1": "n1",
        "dimension": "Dimension", "low": "Low", "high": "High", "scale": "Distance",
        "n_duplicates": "Duplicates", "n": "n", "control": "Control",
    },
    "neighbours": {
        "source_a": "From store", "site_a": "From site", "source_b": "To store",
        "site_b": "To site", "imbalance": "Imbalance", "imbalance_shuffled": "Shuffled",
        "overlap": "Overlap", "overlap_shuffled": "Shuffled ", "n": "n", "control": "Control",
    },
}  # fmt: skip
"""Columns of the table and what they are called; files have all."""
SAID = {
    "anisotropy": "Largest norm: in medians of the norm. Massive: rows far beyond it.",
    "dimension": "n1: neighbours; distance: mean, to neighbour 2 n1. Low to high: 95 %, jackknife "
    "over documents.",
    "neighbours": "Overlap: share of nearest neighbours kept. Shuffled: the same where rows "
    "are paired at random.",
}
LACKS = {"without_first": "no first token", "without_massive": "no massive row"}
"""Rows of anisotropy that are all rows again where there is none of these among them."""
ESTIMATORS = {"two_nn_regression": "TwoNN", "gride": "GRIDE"}


def shape_table(found: Any, measure: str, code: str) -> None:
    """Draw the table, without columns that tell the rows nothing apart; ``code`` makes it again."""
    frame: Any = found.to_frame()
    told = HEADINGS[measure]
    again, why = _again(frame) if measure == "anisotropy" else (np.zeros(len(frame), bool), "")
    shown = frame.loc[~again].reset_index(drop=True)
    shown = shown[[c for c in told if c in shown]].replace(ESTIMATORS)
    if "rows" in shown:
        shown = shown.assign(rows=[spelled(name) for name in shown["rows"]])
    shown = shown.assign(control=shown["control"].astype(bool))
    same = [c for c in ("source", "source_a", "source_b", "control") if c in shown
            and shown[c].nunique() == 1]  # fmt: skip
    show_listing(shown.drop(columns=same), alt=f"{measure}, every number", headings=told, digits=3,
                 caption=f"{SAID[measure]}{why}", take="shape-table", data=frame, code=code,
                 config={"rows": st.column_config.Column("Tokens", width=130)})  # fmt: skip


def _again(frame: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Which rows of anisotropy say what "all" says, being of the very same tokens; and why."""
    whole = frame.groupby(["source", "site"])["n"].transform("max")
    kinds, n_of = frame["rows"].to_numpy(), frame["n"].to_numpy()
    again = (kinds != "all") & (n_of == np.asarray(whole))
    said: list[str] = []
    for kind, what in LACKS.items():
        here = kinds == kind
        if n := int(np.count_nonzero(again & here)):
            said.append(f"“{spelled(kind)}” at {n} of {np.count_nonzero(here)} sites ({what} among "
                        "the tokens measured)")  # fmt: skip
    told = f" Not listed, the same tokens as “all”: {'; '.join(said)}." if said else ""
    return again, told
