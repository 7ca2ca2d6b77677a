"""Experts by how differently two classes of prompts use them, and the study of the highest."""

import pandas as pd
import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, plain
from lensbench.app.workflows import expert_page
from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.expert_page import STUDY_HEADINGS, ExpertAsk


def expert_rank(ask: ExpertAsk) -> None:
    """The ranking, and the study of its highest ranks when asked for."""
    with st.spinner("Reading the routing of every prompt"):
        ranking = expert_page.ranked(ask)
    show_figure(
        ranking.plot(), key="experts", frame=ranking.to_frame(), code=expert_page.rank_code(ask),
        alt="Differential routing of every expert, layers by experts",
        caption=f"n = {expert_page.n_of(ranking)} prompts. Gate weight on prompts of class "
                f"{ranking.target}, less that on others. Control: "
                f"{expert_page.control_told(ranking)}. A high rank is no proof.",
    )  # fmt: skip
    show_listing(expert_page.top(ranking), alt="Experts with the largest differential",
                 headings=expert_page.HEADINGS, take="expert-top",
                 code=python_of(expert_page.top, Call(expert_page.ranked, ask)))  # fmt: skip
    command_line(expert_page.command_of(ask, "rank"))
    st.caption("Experts found on half of the prompts are suppressed and forced on the other half, "
               "beside random experts of the same layers and load.")  # fmt: skip
    if not st.toggle("Run the study", key="study", bind="query-params"):
        return
    with st.spinner("Answering every prompt under every condition"):
        report = expert_page.studied(ask)
    frame = report.to_frame()
    for how, told in expert_page.verdicts(report).items():
        st.markdown(f"**{how.capitalize()}: {plain(told)}**")
    show_figure(
        expert_page.study_figure(report), key="experts-study", frame=report.shown(),
        code=expert_page.study_code(ask),
        alt="Rate of the behaviour under every condition",
        caption=f"Wilson intervals, 95 %; of random experts the mean, and from the lowest set to "
                f"the highest. Control: {report.controls.note}.",
    )  # fmt: skip
    shown = pd.DataFrame(frame, columns=[c for c in STUDY_HEADINGS if c in frame]).round(4)
    show_listing(shown, alt="Every condition of the study", headings=STUDY_HEADINGS,
                 take="study-table", data=frame,
                 code=python_of(expert_page.studied, ask, then=".to_frame()"))  # fmt: skip
    command_line(expert_page.command_of(ask, "suppress"))
