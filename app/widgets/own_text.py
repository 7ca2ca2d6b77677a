"""Jobs in which a model writes the text from which drafts and exits are predicted exactly."""

from typing import Any

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.fit_job import fit_job
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.workflows import acceleration_live, studies

EXAMPLES, NEW, FOLDER = 100, 16, "own-text"
MODEL = "atlas-early"
WAITED = "own-waited-for"
"""The folder whose text this tab has seen being written: it is opened once it is there."""


def offer_own_text() -> None:
    """From example prompts, by a bundled model that was trained to exit early."""
    settings = acceleration_live.example_settings(root(), FOLDER, MODEL, EXAMPLES, NEW)
    _offer(FOLDER, settings, f"Let {MODEL} write its own text", "examples",
           f"{EXAMPLES} example prompts, {NEW} tokens each; up to a minute, in a process of its "
           f"own. Kept as {FOLDER}.")  # fmt: skip


def offer_own_text_of(name: str, url: str) -> None:
    """From the beginnings of a store's texts, by its own model."""
    with guarded():
        settings = acceleration_live.own_settings(root(), f"{name}-own", url)
        _offer(f"{name}-own", settings, "Let the model continue these texts, and capture that",
               "own", f"The beginnings of the first texts, {settings['new_tokens']} tokens more "
               f"each, in a process of its own. Kept as {name}-own.")  # fmt: skip


def _offer(folder: str, settings: dict[str, Any], label: str, key: str, told: str) -> None:
    job = studies.job_of(root(), "own", settings)
    going = job is not None and job.state != "finished"
    if going:
        st.session_state[WAITED] = folder
    elif acceleration_live.is_written(root(), folder):
        if st.session_state.pop(WAITED, None) == folder:
            go_to("acceleration", store=folder)
        st.success(f"The model has written its own text: {plain(folder)}.")
        if st.button(f"Open {plain(folder)}", key=f"open-{key}", type="primary"):
            go_to("acceleration", store=folder)
        return
    fit_job("own", settings, label, key=key, told=told)
