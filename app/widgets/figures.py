"""A figure as a page shows it: in the reader's mode, explained, and free to take away."""

import json
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from lensbench.app.state import mode
from lensbench.plots import CONFIG, template


def show_figure(
    figure: go.Figure,
    *,
    key: str,
    alt: str,
    caption: str = "",
    frame: pd.DataFrame | None = None,
    code: str = "",
    file: str = "",
    pick: bool = False,
) -> list[str]:
    """Draw ``figure`` with its caption (n, controls), alt text, data as CSV and JSON, and code.

    ``frame`` is exactly what is drawn; ``code`` makes the same figure in a notebook. With ``pick``
    the points can be clicked: gives what the hover says first of the one that was.
    """
    figure.update_layout(template=template(mode()))
    state: Any = st.plotly_chart(
        figure, key=key, config=CONFIG, theme=None, alt=alt, selection_mode="points",
        on_select="rerun" if pick else "ignore",
    )  # fmt: skip
    if caption:
        st.caption(caption)
    take_away(frame, key=key, code=code, file=file)
    chosen = state["selection"]["points"] if pick else []
    return [str(point["customdata"][0]) for point in chosen if "customdata" in point]


def take_away(frame: pd.DataFrame | None, *, key: str, code: str = "", file: str = "") -> None:
    """Buttons for the data that are drawn, and the code that draws them."""
    if frame is None and not code:
        return
    with st.popover("Data and code", key=f"{key}-take"):
        if frame is not None:
            name = file or key
            st.download_button("CSV", frame.to_csv(index=False), f"{name}.csv", "text/csv",
                               key=f"{key}-csv")  # fmt: skip
            st.download_button("JSON", as_json(frame), f"{name}.json", "application/json",
                               key=f"{key}-json")  # fmt: skip
        if code:
            st.caption("Copy as Python")
            st.code(code, language="python")


def as_json(frame: pd.DataFrame) -> str:
    """Rows and units of a frame as one JSON document; absent numbers are null."""
    rows = json.loads(frame.to_json(orient="records") or "[]")
    return json.dumps({"units": frame.attrs.get("units", {}), "rows": rows}, indent=1)
