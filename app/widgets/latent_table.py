"""The table of a dictionary's latents: narrowed by filters, sorted by its headings, clickable."""

import pandas as pd
import streamlit as st


def filtered(table: pd.DataFrame) -> pd.DataFrame:
    """Draw filters and table; a clicked row is opened. Gives the rows that are shown."""
    rows = _narrowed(table)
    n = int(table.attrs.get("n_tokens", 0))
    seen = f" Density: share of the {n:,} tokens of the evaluation." if n else ""
    st.caption(
        f"{len(rows):,} of {len(table):,} latents. Click a heading to sort, a row to open.{seen}"
    )
    state = st.dataframe(
        rows, hide_index=True, key="latent-rows", on_select="rerun", selection_mode="single-row",
        alt="latents of the dictionary", height=320,
        column_config={"density": st.column_config.NumberColumn(format="%.5f")},
    )  # fmt: skip
    picked = state["selection"]["rows"]
    if picked and picked[0] < len(rows):
        latent = int(rows["latent"].iloc[picked[0]])
        if st.session_state.get("seen-row") != (latent, tuple(picked)):
            st.session_state["seen-row"] = (latent, tuple(picked))
            st.session_state["to-latent"] = latent
            st.rerun()
    return rows


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
    return rows
