"""Runs: which there are, how one goes, and start another."""

import streamlit as st

from lensbench.app.state import inside, root, run_names, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.run_detail import run_detail
from lensbench.app.widgets.start_form import start_form
from lensbench.app.widgets.states import nothing_yet
from lensbench.app.workflows.overview import run_frame

LOOK, START = "All runs", "Start a run"


def show() -> None:
    """Draw the page."""
    st.title("Runs")
    parts = {LOOK: _look, START: _start}
    if st.session_state.pop("started", False):
        st.session_state["do"] = LOOK  # a run that was just started is opened
    elif "do" not in st.session_state:
        asked = st.query_params.get("do", LOOK)
        st.session_state["do"] = asked if asked in parts else LOOK
    tabs = st.tabs(list(parts), key="do", on_change="rerun")
    # Not bound to the address: a bound value cannot be changed when a run is opened.
    if st.session_state["do"] == LOOK:
        st.query_params.pop("do", None)
    else:
        st.query_params["do"] = st.session_state["do"]
    for tab, draw in zip(tabs, parts.values(), strict=True):
        if tab.open:
            with tab:
                draw()


def _look() -> None:
    names = run_names()
    if not names:
        nothing_yet("No runs in this folder yet.", f"lensbench demo --out {root()}/demo-run",
                    next_step="Start one in the next tab.")  # fmt: skip
    if len(names) > 1:
        st.markdown("[Compare two runs](compare)")
    chosen = choose("Run", names, key="run")
    if chosen is not None:
        run_detail(inside(chosen))
    elif names:
        show_listing(run_frame(root()), alt="runs, newest first")
        st.caption("Newest first. Choose one to see its curves.")


def _start() -> None:
    start_form(store_names())
