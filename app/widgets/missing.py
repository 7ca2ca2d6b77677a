"""What a store lacks, and the command that adds it."""

import streamlit as st

from lensbench.app.widgets.states import plain


def missing(told: str, *, model: str = "") -> None:
    """Show a message of lensbench; a command in it gets a block of its own, ready to copy."""
    what, _, command = told.partition(" Add with: ")
    st.info(plain(what))
    if not command:
        return
    is_python = command.startswith("lensbench.")
    st.caption("Add it in Python with:" if is_python else "Add it with:")
    code = in_python(command, model) if is_python else command
    st.code(code, language="python" if is_python else "bash", wrap_lines=True)


def in_python(call: str, model: str) -> str:
    """A call with what it needs: the model, and word of texts that were in memory only."""
    opened = (
        f"model = lensbench.load_model({model!r})" if model else "# model: the one captured from"
    )
    texts = "# texts: the very texts of the store, in the same order; they lived in memory only"
    corpora = ["import lensbench.worlds.corpora"] if "lensbench.worlds.corpora." in call else []
    lines = ["import lensbench", *corpora, "", opened,
             *([texts] if "(model, texts," in call else []), call]  # fmt: skip
    return "\n".join(lines)
