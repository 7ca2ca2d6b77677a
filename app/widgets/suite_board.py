"""The quality suite on a page: a table per measure that the evaluation holds."""

from typing import Any

import streamlit as st

from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.suite_tables import measures_of, missing_of, note_on, table_of


def suite_board(result: Any) -> None:
    """A table of one measure at a time; nothing where the evaluation holds none."""
    known, missing = measures_of(result), missing_of(result)
    if not known and not missing:
        return
    st.subheader("Quality suite")
    if known:
        measure = pick_of("Measure", list(known), next(iter(known)), key="measure", shown=known)
        table = table_of(result, measure)
        st.dataframe(table, hide_index=True, alt=f"{known[measure]} of every dictionary")
        st.caption(plain(note_on(result, measure)))
        take_away(table, key=f"suite-{measure}")
    if missing:
        with st.expander(f"{len(missing)} that could not be measured"):
            for what, why in missing.items():
                st.text(f"{what}: {why}")
