"""Tables of what lies in a folder: whole numbers with separators, nothing to edit."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st
from pandas.api.types import is_bool_dtype, is_integer_dtype


def show_listing(
    frame: pd.DataFrame, *, alt: str, pick: str = "", headings: Mapping[str, str] | None = None
) -> int | None:
    """Draw a table of names and counts; with a key ``pick``, gives the row that was ticked.

    ``headings`` are what columns are called where their names are not for reading.
    """
    whole = [str(c) for c in frame if is_integer_dtype(frame[c]) and not is_bool_dtype(frame[c])]
    config: dict[str, Any] = {
        str(name): st.column_config.Column(told) for name, told in (headings or {}).items()
    }
    for name in whole:
        told = (headings or {}).get(name)
        config[name] = st.column_config.NumberColumn(told, format="localized")
    if not pick:
        st.dataframe(frame, hide_index=True, alt=alt, column_config=config)
        return None
    state: Any = st.dataframe(frame, hide_index=True, alt=alt, column_config=config, key=pick,
                              on_select="rerun", selection_mode="single-row")  # fmt: skip
    rows = state["selection"]["rows"]
    return int(rows[0]) if rows else None
