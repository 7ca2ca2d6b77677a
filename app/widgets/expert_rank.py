"""Experts by how differently two classes of prompts use them, and the study of the highest."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, plain
from lensbench.app.workflows import expert_jobs, expert_page, jobs
from lensbench.app.workflows.expert_code import rank_code, top_code
from lensbench.app.workflows.expert_page import STUDY_HEADINGS, ExpertAsk
from lensbench.app.workflows.studies import load_code, told_of

if TYPE_CHECKING:
    from lensbench.app.workflows.expert_page import ExpertReport


def expert_rank(ask: ExpertAsk) -> None:
    """The ranking, and the study of its highest ranks, which is a job."""
    with st.spinner("Reading the routing of every prompt"):
        ranking = expert_page.ranked(ask)
    show_figure(
        ranking.plot(), key="experts", frame=ranking.to_frame(), code=rank_code(ask, ranking),
        alt="Differential routing of every expert, layers by experts",
        caption=plain(f"n = {expert_page.n_of(ranking)}. Gate weight on prompts of class "
                      f"{ranking.target}, less that on others. Control: "
                      f"{expert_page.control_told(ranking)}. A high rank is no proof. "
                      f"{expert_page.colours_told(ranking)}"),
    )  # fmt: skip
    st.markdown(f"**{plain(expert_page.against_chance(ranking))}**")
    show_listing(expert_page.top(ranking), alt="Experts with the largest differential",
                 headings=expert_page.HEADINGS, take="expert-top",
                 code=top_code(ask, ranking))  # fmt: skip
    command_line(expert_page.command_of(ask, "rank"))
    st.caption("Experts found on half of the prompts are suppressed and forced on the other half, "
               "beside random experts of the same layers and load.")  # fmt: skip
    settings = expert_jobs.study_settings(root(), ask)
    report = expert_jobs.saved_study(root(), ask)
    if report is None:
        fit_job("study", settings, "Run the study", key="start-study",
                told="Answers every prompt under every condition, in a process of its own; the "
                     "page can be left.")  # fmt: skip
        return
    _study(report, Path(settings["out"]))
    fit_done("study", settings)
    command_line(jobs.command_of("study", settings))


def _study(report: "ExpertReport", folder: Path) -> None:
    frame = report.to_frame()
    for how, told in expert_page.verdicts(report).items():
        st.markdown(f"**{how.capitalize()}: {plain(told)}**")
    show_figure(
        expert_page.study_figure(report), key="experts-study", frame=report.shown(),
        code=expert_page.study_code(folder), provenance=told_of(report),
        alt="Rate of the behaviour under every condition",
        caption=f"n = {len(report.test_rows)} test prompts. Wilson intervals, 95 %; of random "
                f"experts the mean, and from the lowest set to the highest. Control: "
                f"{report.controls.note}.",
    )  # fmt: skip
    shown = pd.DataFrame(frame, columns=[c for c in STUDY_HEADINGS if c in frame]).round(4)
    code = load_code(folder, "found.to_frame()")
    show_listing(shown, alt="Every condition of the study", headings=STUDY_HEADINGS,
                 take="study-table", data=frame, code=code)  # fmt: skip
