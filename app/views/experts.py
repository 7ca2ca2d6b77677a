"""The page Experts: which experts of a mixture a behaviour goes with, and whether it needs them."""

import pandas as pd
import streamlit as st

from lensbench.app.state import inside, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded
from lensbench.app.workflows import expert_page
from lensbench.app.workflows.expert_page import ExpertAsk
from lensbench.app.workflows.lenses import model_names

STUDY = ["condition", "rate", "low", "high", "n", "no_longer", "newly", "kl", "neutral_changed"]


def show() -> None:
    """Draw the page."""
    st.title("Experts")
    st.caption("Which experts the tokens of two classes of prompts are sent to, and what happens "
               "to the behaviour when they are taken out.")  # fmt: skip
    ask = _ask()
    if ask is None:
        return
    with guarded():
        with st.spinner("Reading the routing of every prompt"):
            ranking = expert_page.ranked(ask)
        show_figure(
            ranking.plot(), key="experts", frame=ranking.to_frame(),
            code=expert_page.python_of(ask),
            alt="Differential routing of every expert, layers by experts",
            caption=f"Gate weight on prompts of class {ranking.target}, less that on others. "
                    f"Largest with labels permuted: {ranking.controls}. A high rank is no proof.",
        )  # fmt: skip
        st.markdown("**Highest ranks**")
        show_listing(expert_page.top(ranking), alt="Experts with the largest differential")
        command_line(expert_page.command_of(ask, "rank"))
        _study(ask)


def _study(ask: ExpertAsk) -> None:
    st.markdown("**Take them out**")
    st.caption("Experts found on half of the prompts are suppressed and forced on the other half, "
               "beside random experts of the same layers and load.")  # fmt: skip
    if not st.toggle("Run the study", key="study", bind="query-params"):
        return
    with st.spinner("Answering every prompt under every condition"):
        report = expert_page.studied(ask)
    frame = report.to_frame()
    shown = [c for c in STUDY if c in list(frame.columns)]
    show_figure(
        report.plot(), key="experts-study", frame=frame,
        code=expert_page.python_of(ask, "studied"),
        alt="Rate of the behaviour under every condition",
        caption=f"Wilson intervals, 95 %. Control: {report.controls}.",
    )  # fmt: skip
    show_listing(pd.DataFrame(frame, columns=shown), alt="Every condition of the study")
    command_line(expert_page.command_of(ask, "suppress"))


def _ask() -> ExpertAsk | None:
    left, right = st.columns(2)
    with left:
        names = model_names([str(inside(s)) for s in store_names()])
        model = choose("Model", names, key="model")
        prompts = st.text_input("Prompts", "desk:120", key="prompts", bind="query-params",
                                help="desk:N, or a .jsonl file with text and label.")  # fmt: skip
    with right:
        says = st.text_input("The behaviour says", key="says", bind="query-params",
                             placeholder="the desk knows its own").strip()  # fmt: skip
        top = int(st.number_input("Experts to take out", 1, 64, 3, key="top", bind="query-params"))
    if model is None:
        st.info("Choose a mixture of experts, such as the bundled atlas-moe.")
        return None
    return ExpertAsk(model, prompts, says, top)
