"""A head taken out of one text's run, beside heads drawn at random."""

import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded
from lensbench.app.workflows import head_ablation
from lensbench.app.workflows.attention import AttentionAsk
from lensbench.app.workflows.copying import python_of


def show_ablation(ask: AttentionAsk, chosen: str) -> None:
    """A switch, and what the head does for the predictions on this text."""
    layer, head = (int(n) for n in chosen.split("."))
    st.header("Take this head out")
    st.caption("Where a head looks does not say what it does. Its output is set to zero on this "
               "text; 8 other heads drawn at random are taken out too, each alone.")  # fmt: skip
    if not st.toggle(f"Run the model without head {chosen}", key="ablate", bind="query-params"):
        return
    with guarded():
        with st.spinner("Running the model without the head"):
            found = head_ablation.ablate_head(ask, layer, head)
        left, right = st.columns([3, 2])
        with left:
            show_figure(found.plot(), key="head-out", frame=found.frame,
                        code=head_ablation.python_of(ask, layer, head),
                        alt=f"Change of the prediction at every token without head {chosen}",
                        caption=f"Control: heads {', '.join(found.others)}.")  # fmt: skip
        with right:
            st.markdown("**After the last token** (random head: mean of the control)")
            show_listing(
                found.last.round(3), alt="Next tokens with and without the head", take="head-last",
                data=found.last,
                code=python_of(head_ablation.ablate_head, ask, layer, head, then=".last"),
            )  # fmt: skip
