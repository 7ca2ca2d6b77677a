"""The page Steering: what a direction added to the stream does, beside others as long."""

import streamlit as st

from lensbench.app.widgets.direction_source import choose_direction
from lensbench.app.widgets.latent_lines import beside_line
from lensbench.app.widgets.states import guarded
from lensbench.app.widgets.steer_beside import ask_prompt, steer_beside
from lensbench.app.widgets.steer_doses import prompt_doses, steer_doses


def show() -> None:
    """Draw the page."""
    st.title("Steering")
    st.caption("Add a direction to the residual stream and see what the model then says.")
    with guarded():
        ask = choose_direction()
        if ask is None:
            return
        ask = ask_prompt(ask)
        with guarded():
            steer_beside(ask)
        st.markdown("**Dose by dose**")
        if ask.task is not None:
            steer_doses(ask.task)
        else:
            prompt_doses(ask)
        if ask.prompt.strip():
            beside_line(ask)
