"""A figure as a page shows it: in the reader's mode, explained, and free to take away."""

from functools import partial
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

import lensbench
from lensbench.app.state import comes_from, mode
from lensbench.app.widgets.picture import picture_buttons
from lensbench.app.widgets.states import plain
from lensbench.app.workflows.exports import as_html, as_json, as_notebook, drawn_frame
from lensbench.plots import CONFIG, template
from lensbench.plots.theme import PAPER


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
    provenance: str = "",
) -> list[str]:
    """Draw ``figure`` with its caption (n, controls), alt text, data, files and code.

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
    take_away(frame, key=key, code=code, file=file, figure=figure, alt=alt, caption=caption,
              provenance=provenance)  # fmt: skip
    chosen = state["selection"]["points"] if pick else []
    return [str(point["customdata"][0]) for point in chosen if "customdata" in point]


def take_away(
    frame: pd.DataFrame | None,
    *,
    key: str,
    code: str = "",
    file: str = "",
    figure: go.Figure | None = None,
    chart: str = "",
    alt: str = "",
    caption: str = "",
    provenance: str = "",
) -> None:
    """What is drawn as files, and the code that draws it; files are made when they are asked for.

    ``figure`` is the one drawn under the widget key ``chart`` (default: ``key``), if there is one.
    """
    if frame is None and not code and figure is None:
        return
    if frame is None and figure is not None and figure.data:
        frame = drawn_frame(figure)
    name = file_name(file or key)
    told = (provenance, *comes_from(), page_address(), _version())
    made = " · ".join(part for part in told if part)
    with st.popover("Data and code", key=f"{key}-take"):
        with st.container(horizontal=True, key=f"{key}-files"):
            if frame is not None:
                _file("CSV", partial(frame.to_csv, index=False), f"{name}.csv", "text/csv", key)
                _file(
                    "JSON", partial(as_json, frame, made), f"{name}.json", "application/json", key
                )
            if code:
                notebook = partial(as_notebook, code, title=plain(alt or name), caption=caption,
                                   provenance=made)  # fmt: skip
                _file("Notebook", notebook, f"{name}.ipynb", "application/x-ipynb+json", key)
            if figure is not None:
                page = partial(as_html, figure, alt=alt or name, caption=caption, provenance=made,
                               mode=mode())  # fmt: skip
                _file("HTML", page, f"{name}.html", "text/html", key)
                picture_buttons(chart or key, name, PAPER[mode()])
        if code:
            st.caption("Copy as Python")
            st.code(code, language="python")
        st.caption(plain(made))


def _file(label: str, made: Any, name: str, mime: str, key: str) -> None:
    st.download_button(label, made, name, mime, key=f"{key}-{label.lower()}", on_click="ignore")


def file_name(figure: str) -> str:
    """``page-figure``, of letters that every system allows in a file's name."""
    page = str(st.session_state.get("page-shown", ""))
    whole = figure if not page or figure.startswith(page) else f"{page}-{figure}"
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in whole)


def page_address() -> str:
    """The address of what is shown, from the page's name on: what another tab would open."""
    page = str(st.session_state.get("page-shown", ""))
    asked = urlencode(st.query_params.to_dict(), safe="/,:")
    return f"/{page}" + (f"?{asked}" if asked else "") if page else ""


def _version() -> str:
    return f"lensbench {lensbench.__version__}"
