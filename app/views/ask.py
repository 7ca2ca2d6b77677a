"""The page Ask a state: what one token's state holds, read off another prompt."""

import streamlit as st

from lensbench.app.widgets.lens_ask import ask_in_prompt
from lensbench.app.widgets.shell_lines import ask_line
from lensbench.app.widgets.text_source import STORED, TYPED, choose_source


def show() -> None:
    """Draw the page."""
    st.title("Ask a state")
    st.caption("Put the state of one token into another prompt, and read what the prompt then says "
               "(Patchscopes, SelfIE).")  # fmt: skip
    source = choose_source(STORED, TYPED, command=ask_line)
    if source is not None:
        ask_in_prompt(source)
