"""The smallest threshold that keeps an agreement, and how sure that is."""

from math import ceil

import streamlit as st

from lensbench.app.widgets.states import command_line, plain
from lensbench.app.workflows import exit_threshold
from lensbench.app.workflows.acceleration import ExitAsk


def threshold_panel(ask: ExitAsk) -> None:
    """Choose a level; the threshold, its bound, and a button that sets the slider."""
    with st.container(border=True, key="choose-exit"):
        st.markdown("**Choose a threshold**")
        percent = st.select_slider("Keep this agreement with the full model, %",
                                   (50, 60, 70, 80, 85, 90, 95, 98, 99), 90, key="keep",
                                   bind="query-params")  # fmt: skip
        level = float(percent) / 100
        found = exit_threshold.threshold_for(ask.store, ask.measure, level)
        st.markdown(plain(exit_threshold.told(found)))
        st.button("Set the slider to it", key="use-threshold", on_click=_set, args=(found.use,))
        with st.expander("As Python and on the command line"):
            st.code(exit_threshold.python_of(ask, level), language="python")
            command_line(exit_threshold.command_of(ask, found))


def _set(value: float) -> None:
    st.session_state["threshold"] = min(
        1.0, ceil(round(value * 20, 6)) / 20
    )  # the slider steps by .05: on the safe side
