"""What a capture would take, before it is started."""

from pathlib import Path

import pandas as pd
import streamlit as st

from lensbench.app.widgets.states import plain
from lensbench.app.workflows import capture_plan
from lensbench.app.workflows.capture_plan import CaptureAsk, Forecast


def show_cost(ask: CaptureAsk, cost: Forecast) -> None:
    """Draw tokens, sites and disk, what is unknown to the model, and the sites one by one."""
    about = "" if cost.exact else "about "
    facts = {"tokens": f"{about}{cost.tokens:,}", "sites": f"{len(cost.sites)}",
             "on disk": f"{about}{capture_plan.size(cost.bytes)}",
             "free": capture_plan.size(cost.free)}  # fmt: skip
    for column, (label, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(label, value, border=True)
    how = "counted" if cost.exact else "the beginning was counted, the rest taken to be like it"
    st.caption(f"Tokens: {how}; rows of at most {cost.context} tokens, layout {cost.layout}. "
               "Nothing was run yet.")  # fmt: skip
    if cost.unknown:
        st.warning(f"The model has no word for {cost.unknown:.0%} of these tokens; it reads them "
                   "all as one unknown word.")  # fmt: skip
    if (Path(ask.out) / "manifest.json").is_file():
        there = plain(Path(ask.out).name)
        st.info(f"{there} is there already: the same text and settings go on where they ended, new "
                "sites are added, anything else is refused.")  # fmt: skip
    many = f"The {len(cost.sites)} sites and what each costs"
    box = st.expander(many if len(cost.sites) > 1 else "The site and what it costs", key="costs",
                      on_change="rerun")  # fmt: skip
    if box.open:  # a table in a closed box is drawn for nobody
        box.dataframe(pd.DataFrame(capture_plan.cost_rows(cost)), hide_index=True,
                      alt="sites that will be stored, with width and bytes")  # fmt: skip
