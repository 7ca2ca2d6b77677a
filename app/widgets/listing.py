"""Tables of what lies in a folder: whole numbers with separators, nothing to edit."""

import pandas as pd
import streamlit as st
from pandas.api.types import is_bool_dtype, is_integer_dtype


def show_listing(frame: pd.DataFrame, *, alt: str) -> None:
    """Draw a table of names and counts."""
    whole = [str(c) for c in frame if is_integer_dtype(frame[c]) and not is_bool_dtype(frame[c])]
    config = {name: st.column_config.NumberColumn(format="localized") for name in whole}
    st.dataframe(frame, hide_index=True, alt=alt, column_config=config)
