"""A fit that takes longer than a click: the button that starts its job, and how far it is."""

from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.job_panel import job_panel, start_job
from lensbench.app.widgets.states import command_line, plain
from lensbench.app.workflows import jobs


def fit_job(kind: str, settings: dict[str, Any], label: str, *, key: str, told: str = "") -> None:
    """Offer the job that makes ``settings["out"]``, or show it where it was started already.

    The page is drawn anew once it is finished, and finds what it has left.
    """
    target = Path(settings["out"]).name
    there = next((j for j in jobs.all_jobs(root(), kind) if j.target == target), None)
    if there is not None and there.state != "finished":
        with st.container(border=True):
            st.markdown(f"**{plain(there.title)}**")
            job_panel(there.name)
        return
    if st.button(label, key=key, type="primary"):
        start_job(kind, target, settings)
        st.rerun()
    if told:
        st.caption(told)
    command_line(jobs.command_of(kind, settings))
