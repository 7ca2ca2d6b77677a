"""From checked settings to a run: what it will cost, the button, and the same in other words."""

import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import guarded, in_shell
from lensbench.app.workflows import launching
from lensbench.app.workflows.capture_plan import size
from lensbench.app.workflows.launching import SweepConfig

TALLY = {"dictionaries": "dictionaries", "parameters": "parameters", "steps": "steps",
         "memory": "memory", "disk": "disk"}  # fmt: skip


def start_run(settings: Mapping[str, Any], *, name: str) -> None:
    """Draw costs and buttons for settings as a sweep file holds them; faults are said here.

    ``name`` is what the run is called unless the reader changes it.
    """
    with guarded():
        _begin(launching.checked(root(), settings), name)
        return
    st.button("Start training", key="start", type="primary", disabled=True)


def _begin(sweep: SweepConfig, name: str) -> None:
    st.header("What it will take")
    with guarded():
        _costs(launching.sizes(sweep))
    stamp = st.session_state.setdefault("new-stamp", time.strftime("%m%d-%H%M%S"))
    name = st.text_input("Name of the run", f"{name}-{stamp}", key="new-name",
                         help="A folder below runs/ of the one shown.")  # fmt: skip
    with st.container(horizontal=True):
        go = st.button("Start training", key="start", type="primary")
        probe = st.button("Measure the time", key="probe", help="A few steps on real batches; "
                          "nothing is written.")  # fmt: skip
    with guarded():
        if go:
            folder = launching.new_run(root(), name.strip(), sweep.to_dict())
            st.session_state.pop("new-stamp", None)
            go_to("runs", run=folder.relative_to(root()).as_posix())
        if probe:
            with st.spinner("Measuring a few steps"):
                st.code("\n".join(launching.forecast(sweep.to_dict())["lines"]), language=None)
    _elsewhere(sweep, name, launching.python_of(sweep, root() / "runs" / name))


def _costs(told: Mapping[str, Any]) -> None:
    for column, fact in zip(st.columns(len(TALLY)), TALLY, strict=True):
        value = size(told[fact]) if fact in ("memory", "disk") else f"{told[fact]:,}"
        column.metric(TALLY[fact], value, border=True)
    st.caption("Memory: parameters, both moments of Adam, and the largest work arrays. Disk: the "
               "checkpoints that are kept, and the results.")  # fmt: skip


def _elsewhere(sweep: SweepConfig, name: str, python: str) -> None:
    with st.expander("The same as YAML and on the command line", key="as-yaml"):
        st.caption("Save as sweep.yaml, or paste it under From YAML:")
        st.code(launching.yaml_of(sweep), language="yaml")
        out = root() / "runs" / name
        st.code(in_shell("train", "sae", "--config", "sweep.yaml", "--out", out), "bash")
    with st.expander("Copy as Python", key="as-python"):
        st.code(python, language="python")
