"""Capture: run a model over a text once, as a job of its own, and keep what it computed."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.capture_cost import show_cost
from lensbench.app.widgets.capture_form import capture_form, example
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.job_panel import job_panel, start_job
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import command_line, guarded
from lensbench.app.workflows import capture_plan, jobs
from lensbench.app.workflows.capture_plan import CaptureAsk

NEXT = {"stores": "Look at the store", "train": "Train dictionaries on it",
        "lens": "Read it with a lens", "token": "Follow one token"}  # fmt: skip


def show() -> None:
    """Draw the page."""
    st.title("Capture")
    known = [job.name for job in jobs.all_jobs(root(), "capture")]
    if known:
        chosen = choose("Earlier capture", known, key="job", placeholder="None: a new one, below")
        if chosen is not None:
            _going(chosen)
            return
    st.caption("A model runs once over a text; everything else here reads what is kept of that.")
    with guarded():
        if (ask := capture_form()) is not None:
            _forecast(ask)
        else:
            command_line(example(), told="Such a capture on the command line:")


def _going(name: str) -> None:
    finished = job_panel(name)
    if not finished:
        return
    store = Path(str(jobs.look(root(), name).settings["out"])).relative_to(root()).as_posix()
    st.header("What next")
    with st.container(horizontal=True):
        for page, label in NEXT.items():
            if st.button(label, key=f"next-{page}"):
                go_to(page, store=store)


def _forecast(ask: CaptureAsk) -> None:
    st.header("What it will take")
    with guarded():
        capture_plan.require_room(Path(ask.out))
        cost = capture_plan.forecast(ask, root())
        show_cost(ask, cost)
        if st.button("Start the capture", key="start", type="primary"):
            name = Path(ask.out).relative_to(root()).as_posix()
            go_to("capture", job=start_job("capture", name, ask.settings(), expects=cost.tokens))
    command_line(jobs.command_of("capture", ask.settings()))
    with st.expander("Copy as Python"):
        st.code(capture_plan.python_of(ask), language="python")
