"""The page Attention: every head's pattern on one text, and what it looks like it does."""

from dataclasses import asdict

import streamlit as st

from lensbench.app.widgets.head_maps import head_maps
from lensbench.app.widgets.missing import missing
from lensbench.app.widgets.shell_lines import heads_line
from lensbench.app.widgets.states import command_line
from lensbench.app.widgets.text_source import REPEATED, STORED, TYPED, choose_source
from lensbench.app.workflows import attention
from lensbench.app.workflows.attention import AttentionAsk
from lensbench.app.workflows.sequences import name_of_model

SCORES = "The same scores on random tokens said twice, on the command line:"


def show() -> None:
    """Draw the page."""
    st.title("Attention")
    st.caption("Where each head looks. Click a head to see it large.")
    source = choose_source(STORED, TYPED, REPEATED, command=heads_line)
    if source is None:
        return
    ask = AttentionAsk(**asdict(source))
    weighted = st.toggle("Weight by the length of the value vectors", key="weighted",
                         bind="query-params")  # fmt: skip
    run = not ask.store
    if ask.store and (why := attention.stored_or_why(ask.store, weighted=weighted)):
        note = st.empty()
        run = st.toggle("Run the model once on this sequence", key="run", bind="query-params")
        if not run:
            with note.container():
                missing(why, model=name_of_model(ask.store))
            command_line(heads_line(source), told=SCORES)
            return
    head_maps(ask, weighted, run)
    command_line(heads_line(source), told=SCORES)
