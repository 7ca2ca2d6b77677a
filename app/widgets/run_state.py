"""How far a run is, said wherever its numbers are shown: not finished, or an array with parts."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st

from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.run_parts import goes_on, told_state
from lensbench.app.workflows.run_show import array_of
from lensbench.app.workflows.runs import run_row


def array_parts(run: Path, row: Mapping[str, object]) -> None:
    """The parts of an array, each with its state, and the commands that train what is left."""
    told = array_of(run)
    st.caption("Trained as an array: each part is a process of its own with its own dictionaries. "
               "Steps and tokens above are sums over the parts; a part that was not started "
               "counts with the steps that it has before it.")  # fmt: skip
    show_listing(pd.DataFrame(told["each_part"]), alt="parts of the array", take="array-parts",
                 code=python_of(array_of, run, then='["each_part"]'))  # fmt: skip
    left = told["to_finish"]
    if goes_on(str(row["state"])):
        st.caption("Parts are stopped where they were started: Ctrl-C, or the scheduler's cancel.")
    if left:
        st.info(f"{len(left)} of {row['parts']} parts are left to train. A command for each, for "
                "a terminal or a scheduler:")  # fmt: skip
        st.code("\n".join(left), language="bash", wrap_lines=True)


def say_unfinished(runs: Mapping[str, Path], *, key: str) -> None:
    """Where a run is not finished, say so before its numbers, with a way to its page."""
    for name, run in runs.items():
        with guarded():
            state = told_state(run_row(run))
            if state == "finished":
                continue
            st.warning(plain(f"{name} is not finished ({state}): what follows is of the "
                             "dictionaries that are there, as far as they are."))  # fmt: skip
            if st.button(f"Open {plain(name)} on page Runs", key=f"{key}-{name}"):
                go_to("runs", run=name)
