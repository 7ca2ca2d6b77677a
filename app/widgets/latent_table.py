"""The table of a dictionary's latents: narrowed by filters, sorted by its headings, clickable."""

import pandas as pd
import streamlit as st

from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.notes import found_in

MOST = 2_000
"""Rows that are sent to the browser; of more, the first ones in the order that is chosen."""


def filtered(table: pd.DataFrame) -> pd.DataFrame:
    """Draw filters and table; a clicked row is opened. Gives all rows that pass the filters."""
    rows = _narrowed(table)
    if len(table) > MOST:
        rows = _ordered(rows)
    shown = rows.head(MOST)
    n = int(table.attrs.get("n_tokens", 0))
    seen = f" Density: share of the {n:,} tokens of the evaluation." if n else ""
    cut = f", of which the first {MOST:,} are shown" if len(rows) > MOST else ""
    st.caption(
        f"{len(rows):,} of {len(table):,} latents{cut}. Click a heading to sort, a row to open."
        f"{seen}"
    )
    state = st.dataframe(
        shown, hide_index=True, key="latent-rows", on_select="rerun", selection_mode="single-row",
        alt="latents of the dictionary", height=320,
        column_config={
            "density": st.column_config.NumberColumn(format="%.5f"),
            "starred": st.column_config.CheckboxColumn("★", width=40),
            "my label": st.column_config.TextColumn(width="medium"),
        },
    )  # fmt: skip
    picked = tuple(state["selection"]["rows"])
    # Rows move when a filter or a note changes: a place that was clicked before is no new click.
    new = picked != st.session_state.get("seen-row", ())
    st.session_state["seen-row"] = picked
    if new and picked and picked[0] < len(shown):
        st.session_state["to-latent"] = int(shown["latent"].iloc[picked[0]])
        st.rerun()
    return rows


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """All rows in an order of the reader's choice: a heading sorts only what is shown."""
    known = {"": "As listed"} | {str(c): str(c).replace("_", " ") for c in rows}
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with left:
        by = pick_of("Sort all latents by", list(known), "", key="by", shown=known)
    falling = right.toggle("Largest first", value=True, key="falling", bind="query-params")
    if not by:
        return rows
    return rows.sort_values(by, ascending=not falling, na_position="last", kind="stable")


def _narrowed(table: pd.DataFrame) -> pd.DataFrame:
    rows = table
    left, middle, right = st.columns(3)
    if "density" in table.columns:
        low = left.number_input("Density at least", 0.0, 1.0, 0.0, 0.001, format="%g",
                                key="low", bind="query-params")  # fmt: skip
        high = middle.number_input("Density at most", 0.0, 1.0, 1.0, 0.001, format="%g",
                                   key="high", bind="query-params")  # fmt: skip
        rows = rows.loc[(rows["density"] >= (low or 0)) & (rows["density"] <= (high or 0))]
    if "label" in table.columns:
        known = sorted({str(v) for v in table["label"].dropna()})
        label = right.selectbox("Label", known, index=None, key="label", bind="query-params",
                                placeholder="Any, or none")  # fmt: skip
        if label is not None:
            rows = rows.loc[rows["label"] == label]
        rows = rows.sort_values("f1", ascending=False, na_position="last", kind="stable")
    return _said(rows) if "starred" in table.columns else rows


def _said(rows: pd.DataFrame) -> pd.DataFrame:
    """Those with a text in label or note, or with a star."""
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    text = left.text_input("Search labels and notes", key="said", bind="query-params",
                           placeholder="Any text")  # fmt: skip
    if right.toggle("Starred only", key="starred", bind="query-params"):
        rows = rows.loc[rows["starred"]]
    if text:
        rows = rows.loc[found_in(rows, text)]
        if rows.empty:
            st.info(f"No label or note of this dictionary has “{plain(text)}” in it.")
    return rows
