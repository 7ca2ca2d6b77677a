"""Home: what is in the folder, and what to do next."""

import pandas as pd
import streamlit as st

from lensbench.app.state import root, run_names, store_names
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import nothing_yet
from lensbench.app.workflows.overview import model_frame, next_steps, run_frame, store_frame


def show() -> None:
    """Draw the page."""
    st.title("Home")
    st.caption("Capture a transformer's activations once, then ask them anything.")
    stores, runs = store_names(), run_names()
    models = model_frame()
    for column, (what, number) in zip(
        st.columns(3),
        (("Activation stores", len(stores)), ("Runs", len(runs)), ("Bundled models", len(models))),
        strict=True,
    ):
        column.metric(what, number, border=True)
    if not stores and not runs:
        nothing_yet(
            "This folder holds no run and no activation store yet.",
            f"lensbench demo --out {root()}/demo-run",
            next_step="The demo makes both from the bundled model, in a few minutes.",
        )
    st.subheader("What to do next")
    for step in next_steps(root(), stores, runs):
        with st.container(border=True):
            st.markdown(f"**{step.title}**")
            st.caption(step.why)
            st.code(step.command, language="bash", wrap_lines=True)
    _table("Runs", run_frame(root()), "runs, newest first")
    _table("Activation stores", store_frame(root(), stores), "activation stores")
    _table("Models", models, "models that come with lensbench; a folder or a hub id works as well")


def _table(title: str, frame: pd.DataFrame, alt: str) -> None:
    if len(frame):
        st.subheader(title)
        show_listing(frame, alt=alt)
