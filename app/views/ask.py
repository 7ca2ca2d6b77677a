"""The page Ask a state: what one token's state says in another prompt, and foretells."""

import streamlit as st

from lensbench.app.widgets.lens_ask import ask_in_prompt
from lensbench.app.widgets.lens_future import ask_future
from lensbench.app.widgets.shell_lines import ask_line
from lensbench.app.widgets.text_source import STORED, TYPED, choose_source
from lensbench.app.widgets.toggle import one_of

PARTS = {"prompt": "What it says in another prompt", "future": "Which tokens it foretells"}


def show() -> None:
    """Draw the page."""
    st.title("Ask a state")
    st.caption("Put the state of one token into another prompt and read what the prompt then says "
               "(Patchscopes, SelfIE), or read later tokens off it (future lens).")  # fmt: skip
    part = one_of("Ask", PARTS, key="ask")
    source = choose_source(STORED, TYPED, command=ask_line)
    if source is not None:
        (ask_future if part == "future" else ask_in_prompt)(source)
