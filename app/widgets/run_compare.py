"""Two runs side by side: the settings in which they differ, and what their dictionaries reach."""

import streamlit as st

from lensbench.app.state import inside, run_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import take_away
from lensbench.app.workflows.curves import differences, in_text, measured


def compare_two() -> None:
    """Two selectors that are part of the address, and both tables."""
    names = run_names()
    left, right = st.columns(2)
    with left:
        one = choose("One run", names, key="one")
    with right:
        other = choose("Another run", names, key="other")
    if one is None or other is None:
        st.info("Choose two runs to see in which settings they differ, and what they reach.")
        return
    frame = differences(inside(one), inside(other))
    if frame.empty:
        st.success("The two runs have the same settings.")
    else:
        st.subheader("Settings that differ")
        st.dataframe(frame, hide_index=True, alt=f"settings in which {one} and {other} differ")
        take_away(frame, key="differences")
    st.subheader("What they reach")
    numbers = measured(inside(one), inside(other))
    st.dataframe(
        in_text(numbers), hide_index=True, alt=f"FVU, L0 and CE recovered of {one} and {other}"
    )
    st.caption("L0: active latents per token. FVU: share of variance, lower is better. CE "
               "recovered: share of the zero-ablation loss, higher is better. "
               "Numbers of one evaluation compare; those of training are means over "
               "its last steps.")  # fmt: skip
    take_away(numbers, key="measured")
