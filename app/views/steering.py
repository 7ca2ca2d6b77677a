"""The page Steering: what a direction added to the stream does, beside others as long."""

import streamlit as st

from lensbench.app.widgets.direction_source import choose_direction
from lensbench.app.widgets.states import guarded
from lensbench.app.widgets.steer_beside import steer_beside
from lensbench.app.widgets.steer_doses import steer_doses


def show() -> None:
    """Draw the page."""
    st.title("Steering")
    st.caption("Add a direction to the residual stream and see what the model then says.")
    with guarded():
        ask = choose_direction()
        if ask is None:
            return
        with guarded():
            steer_beside(ask)
        if ask.task is not None:
            st.markdown("**Dose by dose**")
            steer_doses(ask.task)
