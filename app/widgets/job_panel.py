"""A job while it goes and after: how far, what it said; stop it, go on with it, forget it."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.workflows import jobs
from lensbench.app.workflows.jobs import KINDS, Job

EVERY = 1.0
"""Seconds between two looks at a job that goes on."""
MEANS = {
    "queued": "its process is starting",
    "lost": "its process is gone without a last word",
    "failed": "it ended with an error",
}


def job_panel(name: str) -> bool:
    """Draw a job; while it goes on, look again by itself. True once it is finished."""
    job = jobs.look(root(), name)
    st.fragment(_look, run_every=EVERY if job.live else None)(name, job.live)
    command_line(job.command)
    return job.state == "finished"


def start_job(kind: str, target: str, settings: dict[str, object], *, expects: int = 0) -> str:
    """Start a job of this folder and note that it is the one to look at; gives its name.

    Raises:
        MismatchError: the same is going on already.
    """
    asked = {key: st.query_params.get_all(key) for key in st.query_params}
    here = {"page": str(st.session_state.get("page-shown", "")), **asked}
    return jobs.start(root(), kind, target, settings, expects=expects, address=here)


def show_jobs(kind: str, setting: str, of: str, *, finished: bool = True) -> None:
    """Panels of the jobs of a kind, newest first, whose ``setting`` is ``of`` or lies below it."""
    for job in jobs.all_jobs(root(), kind):
        wanted = finished or job.state != "finished"
        if wanted and Path(str(job.settings[setting])).is_relative_to(of):
            with st.container(border=True):
                st.markdown(f"**{plain(job.title)}**")
                job_panel(job.name)


def how_far(job: Job) -> str:
    """State and counts in a line: ``running: 4,616 of 43,644 tokens, 12 s``."""
    again = f"gone on with, it {KINDS[job.kind].again}"
    told = again if job.state == "stopped" else MEANS.get(job.state, "")
    count = f"{job.done:,}" if job.done else ""
    count += f" of {job.total:,}" if job.total and job.done else ""
    count += f" {job.unit}" if job.done and job.unit else ""
    return f"{job.state}: " + ", ".join(p for p in (told, count, spent(job.seconds)) if p)


def spent(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _look(name: str, was_live: bool) -> None:
    with guarded():
        job = jobs.look(root(), name)
        if was_live and not job.live:
            st.rerun()  # the whole page: there is nothing to look for any more
        share = min(1.0, job.done / job.total) if job.total else 0.0
        st.progress(1.0 if job.state == "finished" else share, plain(how_far(job)))
        if job.message and job.state == "failed":
            st.error(plain(job.message))
        elif job.message:
            st.caption(plain(job.message))
        _buttons(job)
        with st.expander("Log", expanded=job.state in ("failed", "lost")):
            st.code(jobs.log_of(root(), name) or "nothing yet", language=None)


def _buttons(job: Job) -> None:
    again = KINDS[job.kind].again
    with st.container(horizontal=True):
        if job.live and job.stopping:
            st.caption("It was asked to stop; it saves what it has and ends.")
            return
        if job.live:
            if st.button("Stop", key=f"stop-{job.name}", help=f"Going on later {again}."):
                jobs.stop(root(), job.name)
                st.rerun()
            return
        if job.state != "finished" and st.button(
            "Go on", key=f"go-on-{job.name}", type="primary", help=f"It {again}."
        ):
            jobs.go_on(root(), job.name)
            st.rerun()
        if st.button("Forget", key=f"forget-{job.name}", help="What it made stays; only this note "
                     "of the work and its log go."):  # fmt: skip
            jobs.remove(root(), job.name)
            st.rerun()
