"""Home: what is in the folder, what goes on, and what to do next."""

import pandas as pd
import streamlit as st

from lensbench.app.state import root, store_names
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.next_steps import going_on, show_steps, show_tasks
from lensbench.app.widgets.states import in_shell, plain
from lensbench.app.workflows.guidance import next_steps, tasks
from lensbench.app.workflows.overview import model_frame, run_frame, store_frame
from lensbench.app.workflows.run_parts import goes_on
from lensbench.app.workflows.runs import told_twins

ROWS = 8
"""Rows of a table here; the page of the table has all."""


def show() -> None:
    """Draw the page."""
    st.title("Home")
    st.caption("Capture a transformer's activations once, then ask them anything.")
    stores, runs, models = store_names(), run_frame(root()), model_frame(root())
    live = sum(map(goes_on, runs["state"])) if len(runs) else 0
    counts = (("Activation stores", len(stores), ""),
              ("Runs", len(runs), f"{live} going on" if live else ""),
              ("Models", len(models), ""))  # fmt: skip
    for column, (what, number, more) in zip(st.columns(3), counts, strict=True):
        column.metric(what, f"{number:,}", more or None, delta_color="off", delta_arrow="off",
                      border=True)  # fmt: skip
    if not stores and runs.empty:
        st.info("This folder holds no run and no activation store yet. Begin with a first picture; "
                "it needs neither.")  # fmt: skip
    going_on(root())
    st.header("What to do next")
    show_steps(next_steps(root(), [{str(k): v for k, v in row.items()}
                                   for row in runs.to_dict("records")], stores))  # fmt: skip
    if not stores and runs.empty:
        st.caption("Or make everything once, on the bundled model, in a few minutes:")
        st.code(in_shell("demo", "--out", root() / "demo-run"), language="bash", wrap_lines=True)
    seen = runs.loc[runs["evaluated"], "run"] if len(runs) else []
    with st.expander("What people do here first", expanded=runs.empty, key="tasks"):
        show_tasks(tasks(root(), stores, next(iter(seen), "")))
    st.caption("Below: tick a row to open it on its page.")
    _runs(runs)
    frame = store_frame(root(), stores[:ROWS])
    _table("Activation stores", frame, len(stores), "stores", "store", "activation stores")
    _table("Models", models.head(ROWS * 2), len(models), "capture", "model",
           "models of the package and of this folder")  # fmt: skip


def _runs(frame: pd.DataFrame) -> None:
    """Those that go on first, then the newest."""
    if len(frame):
        first = frame["state"].map(goes_on)
        frame = pd.concat([frame.loc[first], frame.loc[~first]])
    _table("Runs", frame.head(ROWS), len(frame), "runs", "run",
           "runs, those that go on first, then the newest")  # fmt: skip
    if told := told_twins(root()):
        st.caption(plain(told))


def _table(title: str, frame: pd.DataFrame, of: int, page: str, key: str, alt: str) -> None:
    """A few rows; a ticked one is opened on its page."""
    if frame.empty:
        return
    st.header(title)
    picked = show_listing(frame, alt=alt, pick=f"home-{page}")
    if picked is not None:
        go_to(page, **{key: str(frame[key].iloc[picked])})
    if of > len(frame) and st.button(f"All {of:,}", key=f"all-{page}"):
        go_to(page)
