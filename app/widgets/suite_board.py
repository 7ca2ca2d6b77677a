"""The quality suite on a page: a table per measure that the evaluation holds."""

from pathlib import Path
from typing import Any

import streamlit as st

from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.suite_tables import (
    measures_of,
    missing_of,
    note_on,
    table_of,
)
from lensbench.app.workflows.sweep_code import suite_code


def suite_board(result: Any, run: Path) -> None:
    """A table of one measure at a time; nothing where the evaluation holds none."""
    known, missing = measures_of(result), missing_of(result)
    if not known and not missing:
        return
    st.header("Quality suite")
    if known:
        measure = pick_of("Measure", list(known), next(iter(known)), key="measure", shown=known)
        table = table_of(result, measure)
        show_listing(table, alt=f"{known[measure]} of every dictionary", take=f"suite-{measure}",
                     caption=plain(note_on(result, measure)),
                     code=suite_code(run, list(result.suite[measure]), measure))  # fmt: skip
    if missing:
        with st.expander(f"{len(missing)} that could not be measured"):
            for what, why in missing.items():
                st.text(f"{what}: {why}")
