"""The prompt of the page Experts: at first one on which the behaviour shows."""

import streamlit as st

from lensbench.app.workflows.expert_page import ExpertAsk, first_prompt
from lensbench.app.workflows.expert_steering import LONGEST


def expert_prompt(ask: ExpertAsk) -> str:
    """What is typed; until something is, it follows the behaviour that is chosen."""
    first = first_prompt(ask)
    before = st.session_state.get("prompt-at-first", first)
    if before != first and st.session_state.get("prompt") == before:
        st.session_state["prompt"] = first  # set, not deleted: the browser would keep its own
    st.session_state["prompt-at-first"] = first
    return st.text_input("Prompt", first, key="prompt", bind="query-params", max_chars=LONGEST)
