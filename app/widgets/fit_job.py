"""A study that takes longer than a click: its job, and what can be done once it is finished.

A page asks for the result first. Where there is none it calls :func:`fit_job`, which starts the job
or shows how far it is; where there is one, :func:`fit_done` below it runs it again or removes it.
"""

from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.job_panel import job_panel, spent, start_job
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.workflows import jobs, studies


def fit_job(kind: str, settings: dict[str, Any], label: str, *, key: str, told: str = "") -> None:
    """Offer the job of these settings, or show it where it was started already.

    The page is drawn anew once it is finished, and finds what it has left.
    """
    there = studies.job_of(root(), kind, settings)
    if there is not None and there.state != "finished":
        with st.container(border=True):
            st.markdown(f"**{plain(there.title)}**")
            job_panel(there.name)
        return
    if st.button(label, key=key, type="primary"):
        with guarded():
            start_job(kind, studies.target_of(root(), settings), settings)
            st.rerun()
    if told:
        st.caption(plain(told))
    command_line(jobs.command_of(kind, settings))


def fit_done(kind: str, settings: dict[str, Any]) -> None:
    """Below a finished study: what made it, its log, and buttons to run it again or remove it.

    Nothing where it was measured while the reader waited.
    """
    if not studies.is_saved(settings):
        return
    job = studies.job_of(root(), kind, settings)
    with st.popover("Run again or remove", key=f"study-{kind}"):
        if job is None:
            st.caption("Made on the command line.")
        else:
            when = job.started.replace("T", " ")[:16]
            st.caption(f"Made by a job that was started {when} UTC and took {spent(job.seconds)}.")
        with guarded(), st.container(horizontal=True):
            if st.button("Run it again", key=f"run-again-{kind}",
                         help="What is shown now goes; the job makes it anew."):  # fmt: skip
                studies.remove(root(), kind, settings)
                start_job(kind, studies.target_of(root(), settings), settings)
                st.rerun()
            if st.button("Remove it for good", key=f"remove-{kind}"):
                studies.remove(root(), kind, settings)
                st.toast(plain(f"{Path(settings['out']).name} is removed."))
                st.rerun()
        if job is not None:
            st.code(jobs.log_of(root(), job.name), language=None, wrap_lines=True)
