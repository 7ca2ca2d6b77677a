"""Runs: which there are, how one goes, and what can be done with it."""

import streamlit as st

from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.run_detail import run_detail
from lensbench.app.widgets.run_work import run_work
from lensbench.app.widgets.states import command_line, in_shell, nothing_yet, plain
from lensbench.app.workflows.overview import run_frame
from lensbench.app.workflows.runs import told_twins

NEXT = {"sweep": "Compare its dictionaries", "latent": "Look at latents"}


def show() -> None:
    """Draw the page."""
    st.title("Runs")
    names = run_names()
    if not names:
        nothing_yet("No runs in this folder yet.", in_shell("demo", "--out", root() / "demo-run"),
                    next_step="Start one on the page Train, or make the demo.")  # fmt: skip
        return
    chosen = choose("Run", names, key="run")
    if chosen is None:
        _all()
        return
    if run_detail(inside(chosen)):
        with st.container(horizontal=True):
            for page, label in NEXT.items():
                if st.button(label, key=f"next-{page}"):
                    go_to(page, run=chosen)
        run_work(inside(chosen))


def _all() -> None:
    frame = run_frame(root())
    picked = show_listing(frame, alt="runs, newest first", pick="pick-run")
    if picked is not None:
        go_to("runs", run=str(frame["run"].iloc[picked]))
    st.caption("Newest first. Choose one above, or tick its row, to see its curves. "
               + plain(told_twins(root())))  # fmt: skip
    command_line(in_shell("runs", "ls", root()))
    with st.container(horizontal=True):
        if st.button("Start another", key="start-another"):
            go_to("train")
        if len(frame) > 1 and st.button("Compare two runs", key="compare-two"):
            go_to("compare")
