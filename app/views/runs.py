"""Runs: which there are, how one goes, start another, and in what two differ."""

import streamlit as st

from lensbench.app.state import inside, root, run_names, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.run_detail import run_detail
from lensbench.app.widgets.start_form import start_form
from lensbench.app.widgets.states import nothing_yet
from lensbench.app.workflows.curves import differences, in_text, measured
from lensbench.app.workflows.overview import run_frame

LOOK, START, COMPARE = "All runs", "Start a run", "Compare two"


def show() -> None:
    """Draw the page."""
    st.title("Runs")
    parts = {LOOK: _look, START: _start, COMPARE: _compare}
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
    chosen = choose("Run", names, key="run")
    if chosen is not None:
        run_detail(inside(chosen))
    elif names:
        show_listing(run_frame(root()), alt="runs, newest first")
        st.caption("Newest first. Choose one to see its curves.")


def _start() -> None:
    start_form(store_names())


def _compare() -> None:
    names = run_names()
    left, right = st.columns(2)
    with left:
        one = choose("One run", names, key="one")
    with right:
        other = choose("Another run", names, key="other")
    if one is None or other is None:
        st.info("Choose two runs to see in which settings they differ, and what they reach.")
        return
    frame = differences(inside(one), inside(other))
    if frame.empty:
        st.success("The two runs have the same settings.")
    else:
        st.subheader("Settings that differ")
        st.dataframe(frame, hide_index=True, alt=f"settings in which {one} and {other} differ")
        take_away(frame, key="differences")
    st.subheader("What they reach")
    numbers = measured(inside(one), inside(other))
    st.dataframe(
        in_text(numbers), hide_index=True, alt=f"FVU, L0 and CE recovered of {one} and {other}"
    )
    st.caption("L0: active latents per token. FVU: share of variance, lower is better. CE "
               "recovered: share of the zero-ablation loss, higher is better. "
               "Numbers of one evaluation compare; those of training are means over "
               "its last steps.")  # fmt: skip
    take_away(numbers, key="measured")
