"""Dose curves beside their nulls, when they are asked for: of a task, or of any one prompt."""

from pathlib import Path

import pandas as pd
import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import (
    dose_jobs,
    steer_jobs,
    steering,
    steering_doses,
    steering_kept,
    studies,
)
from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.latent_steering import RANDOM
from lensbench.app.workflows.steering import SteerAsk
from lensbench.app.workflows.steering_beside import STRENGTHS, BesideAsk

MEASURES = {
    "effect": "Effect",
    "kl": "KL(clean ‖ steered)",
    "perplexity": "Perplexity of the text",
    "success": "Share of prompts turned",
}
HEADINGS = {
    "strength": "Strength", "kl": "KL(clean ‖ steered) [nats]", "effect": "Effect, nats",
    "success": "Turned",
    "control": "Control", "control_effect": "Its effect", "control_low": "From",
    "control_high": "To", "reached": "Controls that reach this KL", "p": "p (one-sided)",
}  # fmt: skip


def steer_doses(ask: SteerAsk) -> None:
    """A switch, and below it the curve, the controls at equal KL, and texts."""
    st.caption("The direction is made of half of the wordings and tried on the other half.")
    if not _wanted("Steers 32 prompts at every strength, along 41 directions"):
        return
    with st.spinner("Steering at every strength, and along 40 control directions"):
        found = steer_jobs.doses_for(root(), ask)
    settings = steer_jobs.settings_of(root(), ask)
    if found is None:
        fit_job("steer", settings, "Make the dose curve", key="start-doses",
                told=f"It takes {steer_jobs.cost(ask).told}, in a process of its own; the page "
                "can be left.")  # fmt: skip
        return
    result = found.result
    measure = one_of("Measure", MEASURES, key="measure")
    show_figure(
        result.plot(measure), key="steering", frame=result.to_frame(),
        code=steering.python_of(ask, measure),
        alt=f"{MEASURES[measure]} against the strength, task {ask.task}, with bands of controls",
        caption=f"{found.n_made_of} prompts made the direction, n = {result.n} others are steered; "
                "one unit is a step as long as the state at the steered tokens "
                f"({result.scale[0]:.4g}). Controls of the same length: "
                f"{len(result.rows_of('random'))} random directions and "
                f"{len(result.rows_of('shuffled'))} made of shuffled labels. "
                + " ".join(result.undefined),
    )  # fmt: skip
    st.markdown("**At equal KL**")
    show_listing(in_words(result.matched()), alt="Effect beside controls at the same KL",
                 caption="“Not reached”: no control moves the model as far, at any strength tried.",
                 headings=HEADINGS, take="equal-kl", data=result.matched(),
                 code=steering.python_of(ask, ""))  # fmt: skip
    if found.texts:
        st.markdown("**The texts**")
        show_listing(steering_kept.texts_of(found), alt="Clean and steered continuations",
                     take="steer-texts",
                     code=python_of(steering_kept.texts_of,
                                    Call(steering_kept.kept, ask)))  # fmt: skip
    if steer_jobs.is_kept(settings):
        fit_done("steer", settings)


def prompt_doses(ask: BesideAsk) -> None:
    """The same of a direction that has no task: on the prompt above, beside random directions."""
    if not ask.prompt.strip():
        return
    n = len(STRENGTHS) - 1
    if not _wanted(f"Steers the prompt above at {n} strengths, along {1 + RANDOM} directions"):
        return
    with st.spinner(f"Steering at {n} strengths, and along {RANDOM} random directions"):
        found = dose_jobs.doses_for(root(), ask)
    settings = dose_jobs.settings_of(root(), ask)
    if found is None:
        fit_job("doses", settings, "Make the dose curve", key="start-prompt-doses",
                told=f"It takes {dose_jobs.cost(ask).told}, in a process of its own; the page can "
                "be left.")  # fmt: skip
        return
    measure = one_of("Measure", steering_doses.MEASURES, key="dose-measure")
    frame = found.to_frame()
    show_figure(
        found.plot(measure), key="prompt-doses", frame=frame,
        code=steering_doses.python_of(ask, measure, found.unit),
        alt=f"{steering_doses.MEASURES[measure]} at every strength, beside random directions",
        caption=f"One prompt, n = {found.n} tokens of clean text, on which KL is a mean; one unit "
                f"is a step as long as the state at the steered tokens ({found.unit:.4g}). Texts "
                "take the most probable token at each step; their loss is what the unsteered "
                "model makes of them. "
                f"Control: {RANDOM} random directions as long."
                + " A gap: nothing was written there." * bool(frame[measure].isna().sum()),
    )  # fmt: skip
    if (Path(settings["out"]) / studies.FILE).is_file():
        fit_done("doses", settings)
    else:
        command_line(dose_jobs.command_of(settings), told="These doses on the command line:")


def _wanted(told: str) -> bool:
    return st.toggle("Draw the dose curve", key="doses", bind="query-params", help=told)


def in_words(matched: pd.DataFrame) -> pd.DataFrame:
    """The table for reading: known columns, and words where no control got there."""
    frame = matched.filter([c for c in HEADINGS if c in matched]).round(4)
    for name in ("control_effect", "control_low", "control_high", "p"):
        if name in frame:
            frame[name] = ["not reached" if v != v else f"{v:.4g}" for v in frame[name]]
    return frame
