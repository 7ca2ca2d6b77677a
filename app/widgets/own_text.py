"""Buttons that let a model write the text from which drafts and exits are predicted exactly."""

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import command_line, guarded, in_shell, plain

EXAMPLES, NEW, FOLDER = 100, 16, "own-text"
MODEL = "atlas-early"


def offer_own_text() -> None:
    """From example prompts, by a bundled model that was trained to exit early."""
    told = f"{EXAMPLES} example prompts, {NEW} tokens each; up to a minute. Kept as {FOLDER}."
    if st.button(f"Let {MODEL} write its own text", type="primary", key="examples", help=told):
        from lensbench.app.workflows import acceleration_live

        with guarded():
            with st.spinner(f"{MODEL} continues {EXAMPLES} prompts, and its states are captured"):
                acceleration_live.capture_examples(MODEL, EXAMPLES, NEW, root() / FOLDER)
            go_to("acceleration", store=FOLDER)
    command_line(in_shell("accelerate", "--model", MODEL, "--prompts", f"atlas:{EXAMPLES}",
                          "--new-tokens", NEW, "--keep", root() / FOLDER))  # fmt: skip


def offer_own_text_of(name: str, url: str) -> None:
    """From the beginnings of a store's texts, by its own model."""
    from lensbench.app.workflows import acceleration_live

    if st.button("Let the model continue these texts, and capture that", key="own"):
        with guarded():
            with st.spinner("The model writes, and its states are captured"):
                acceleration_live.capture_continuations(url, root() / f"{name}-own")
            st.success(f"Captured as {plain(name)}-own; choose it above.")
