"""What a store lacks, and the command that adds it."""

import streamlit as st

from lensbench.app.widgets.states import plain


def missing(told: str) -> None:
    """Show a message of lensbench; a command in it gets a block of its own, ready to copy."""
    what, _, command = told.partition(" Add with: ")
    st.info(plain(what))
    if command:
        st.caption("Add it with:")
        st.code(command, language="bash", wrap_lines=True)
