"""The prompt of the page Experts: at first one on which the behaviour shows."""

import streamlit as st

from lensbench.app.workflows.expert_page import ExpertAsk, first_prompt
from lensbench.app.workflows.expert_steering import LONGEST


def expert_prompt(ask: ExpertAsk) -> str:
    """What is typed; until something is, it follows the behaviour that is chosen."""
    first = first_prompt(ask)
    if st.session_state.get("prompt") == st.session_state.get("prompt-at-first", first):
        st.session_state.pop("prompt", None)
    st.session_state["prompt-at-first"] = first
    return st.text_input("Prompt", first, key="prompt", bind="query-params", max_chars=LONGEST)
