"""Tables of what lies in a folder: whole numbers with separators, nothing to edit."""

from typing import Any

import pandas as pd
import streamlit as st
from pandas.api.types import is_bool_dtype, is_integer_dtype


def show_listing(frame: pd.DataFrame, *, alt: str, pick: str = "") -> int | None:
    """Draw a table of names and counts; with a key ``pick``, gives the row that was ticked."""
    whole = [str(c) for c in frame if is_integer_dtype(frame[c]) and not is_bool_dtype(frame[c])]
    config = {name: st.column_config.NumberColumn(format="localized") for name in whole}
    if not pick:
        st.dataframe(frame, hide_index=True, alt=alt, column_config=config)
        return None
    state: Any = st.dataframe(frame, hide_index=True, alt=alt, column_config=config, key=pick,
                              on_select="rerun", selection_mode="single-row")  # fmt: skip
    rows = state["selection"]["rows"]
    return int(rows[0]) if rows else None
