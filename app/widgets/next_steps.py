"""What goes on, what to do next, and what people do here first: each a click from its page."""

from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import plain
from lensbench.app.workflows import jobs
from lensbench.app.workflows.guidance import Step
from lensbench.app.workflows.run_parts import told_state
from lensbench.app.workflows.runs import LIVE, list_runs

EVERY = 2.0
"""Seconds between two looks at what goes on."""
PAGE_OF = {"capture": "capture", "tune": "train", "verify": "stores"}
"""Where a job of a kind is looked at that no page has started; others on the page of their run."""


def going_on(root: Path) -> None:
    """Runs and jobs that go on, with how far they are; nothing where there is none."""
    st.fragment(_going_on, run_every=EVERY if _live(root) else None)(root, bool(_live(root)))


def _live(root: Path) -> list[tuple[str, str, float, str, dict[str, Any]]]:
    """Key, title, share done, page and address of each."""
    found: list[tuple[str, str, float, str, dict[str, Any]]] = []
    for row in list_runs(root)["runs"]:
        if row["state"] in LIVE:
            name = Path(str(row["run"])).relative_to(root).as_posix()
            share = row["step"] / max(row["steps"], 1)
            told = f"{name}, {told_state(row)}: step {row['step']:,} of {row['steps']:,}"
            found.append((name, told, share, "runs", {"run": name}))
    for job in jobs.all_jobs(root):
        if job.live:
            share = min(1.0, job.done / job.total) if job.total else 0.0
            query: dict[str, Any] = dict(job.address)
            page = query.pop("page", "") or PAGE_OF.get(job.kind, "runs")
            query |= {"job": job.name} if page == "capture" else {}
            found.append((job.name, f"{job.title}, {job.state}", share, page, query))
    return found


def _going_on(root: Path, was: bool) -> None:
    live = _live(root)
    if was and not live:
        st.rerun()  # the whole page: what has ended is listed elsewhere
    if not live:
        return
    st.header("Going on")
    for key, title, share, page, query in live:
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.progress(share, plain(title))
        if right.button(f"Open {plain(key)}", key=f"open-{key}", width="stretch"):
            go_to(page, **query)


def show_steps(steps: list[Step]) -> None:
    """Side by side: what, why, a button to its page, and the command."""
    for i, (column, step) in enumerate(zip(st.columns(len(steps)), steps, strict=True)):
        with column.container(border=True, height="stretch"):
            kind = "secondary" if i else "primary"
            if st.button(plain(step.title), key=f"step-{i}", type=kind, width="stretch"):
                go_to(step.page, **step.query)
            st.caption(plain(step.why))
            st.code(step.command, language="bash", wrap_lines=True)


def show_tasks(tasks: list[Step]) -> None:
    """A line and a button each."""
    for i, task in enumerate(tasks):
        left, right = st.columns([2, 5], vertical_alignment="center")
        if left.button(task.title, key=f"task-{i}", width="stretch"):
            go_to(task.page, **task.query)
        right.caption(plain(task.why))
