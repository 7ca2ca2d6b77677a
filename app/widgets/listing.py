"""Tables: whole numbers with separators, nothing to edit, and files of what is shown."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st
from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype

from lensbench.app.widgets.figures import take_away

NAMING = {"latent", "nearest", "other latent", "row", "document", "position", "pos", "token_id",
          "id", "token id", "layer", "expert", "slot", "step", "pair", "seed",
          "strongest"}  # fmt: skip
"""Columns of whole numbers that name something; a separator in them would be wrong."""


def show_listing(
    frame: pd.DataFrame, *, alt: str, pick: str = "", headings: Mapping[str, str] | None = None,
    digits: int = 0, config: Mapping[str, Any] | None = None, take: str = "",
    data: pd.DataFrame | None = None, code: str = "", file: str = "", caption: str = "",
    **look: Any,
) -> int | None:  # fmt: skip
    """Draw a table of names and counts; with a key ``pick``, gives the row that was ticked.

    ``headings`` are what columns are called where their names are not for reading. ``digits``:
    after the point of every share, so that columns can be compared; 0 as they come. With a key
    ``take`` the table is offered as files: ``data``, or what is drawn, and the ``code`` of it.
    """
    whole = [str(c) for c in frame if is_integer_dtype(frame[c]) and not is_bool_dtype(frame[c])]
    columns: dict[str, Any] = {
        str(name): st.column_config.Column(told) for name, told in (headings or {}).items()
    }
    for name in (n for n in whole if n not in NAMING):
        told = (headings or {}).get(name)
        columns[name] = st.column_config.NumberColumn(told, format="localized")
    for name in (str(c) for c in frame if digits and is_float_dtype(frame[c])):
        told = (headings or {}).get(name)
        columns[name] = st.column_config.NumberColumn(told, format=f"%.{digits}f")
    drawn: dict[str, Any] = {"hide_index": True, "column_config": columns | dict(config or {}),
                             **look}  # fmt: skip
    if pick:
        drawn |= {"key": pick, "on_select": "rerun", "selection_mode": "single-row"}
    state: Any = st.dataframe(frame, alt=alt, **drawn)
    if caption:
        st.caption(caption)
    if take:
        take_away(frame if data is None else data, key=take, code=code, file=file, alt=alt,
                  caption=caption)  # fmt: skip
    rows = state["selection"]["rows"] if pick else []
    return int(rows[0]) if rows else None
