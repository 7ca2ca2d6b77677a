"""The page Patching: which place of the network carries the answer of a prompt task."""

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.model_choice import choose_model
from lensbench.app.widgets.patch_attribution import show_attribution
from lensbench.app.widgets.patch_map import FORMULAS, show_map
from lensbench.app.widgets.patch_pairs import choose_pairs
from lensbench.app.widgets.states import command_line, guarded, nothing_yet
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import patch_jobs, patching
from lensbench.app.workflows.patching import HOWS, METRICS_SHOWN, SITES_SHOWN, PatchAsk

OWN = " It is done in a process of its own; the page can be left."
EACH_TOKEN = ("resid_pre", "resid_mid", "mlp_out", "attn_out")


def show() -> None:
    """Draw the page."""
    st.title("Patching")
    st.caption("Put the state of one run into another and see whether the answer comes along.")
    model = choose_model()
    if model is None:
        nothing_yet("Choose a model; the sweep of a built-in task starts at once.",
                    "lensbench patch recall --model atlas-dense")  # fmt: skip
        return
    with guarded():
        ask = _ask(model)
        if ask is not None:
            _sweep(ask)


def _ask(model: str) -> PatchAsk | None:
    pairs = choose_pairs(model)
    left, right = st.columns(2)
    with left:
        site = pick_of("Site", list(SITES_SHOWN), "resid_pre", key="site", shown=SITES_SHOWN)
    with right:
        how = pick_of("Intervention", list(HOWS), "denoise", key="how", shown=HOWS)
    metric = one_of("Metric", METRICS_SHOWN, key="metric")
    st.caption(FORMULAS[metric])
    if pairs is None:
        return None
    together = "" if site in EACH_TOKEN else "together"
    return PatchAsk(pairs.task, model, sites=(site,), how=how, metric=metric, positions=together,
                    n=pairs.n, own=pairs.rows)  # fmt: skip


@st.fragment
def _sweep(ask: PatchAsk) -> None:
    with guarded():
        with st.spinner("Patching every place"):
            result = patch_jobs.swept(root(), ask)
        places, pairs, effort = patch_jobs.cost(ask)
        settings = patch_jobs.sweep_settings(root(), ask)
        told = f"{places} places x {pairs} pairs, and the control; {effort.told}."
        if result is None:
            patch_jobs.keep_pairs(settings, ask)
            fit_job("patch", settings, "Patch every place", key="start-sweep", told=told + OWN)
            return
        show_map(ask, result)
        if patch_jobs.is_kept(settings):
            fit_done("patch", settings)
        else:
            st.caption(f"{told} Kept until the page's server ends.")
        show_attribution(ask)
        command_line(patching.command_of(ask))
