"""Estimates from gradients beside the patches they stand for."""

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.states import guarded
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import patch_jobs
from lensbench.app.workflows.patch_code import checked_code
from lensbench.app.workflows.patch_names import counted
from lensbench.app.workflows.patching import PatchAsk

METHODS = {
    "atp": "Attribution patching (AtP)",
    "atp_star": "AtP* (sizes; exact softmax, GradDrop)",
    "ig": "Integrated gradients of activations",
    "ig_inputs": "Integrated gradients of the inputs",
}


def show_attribution(ask: PatchAsk) -> None:
    """A method to estimate with; its estimates are patched, too."""
    st.header("Estimate instead of patching")
    st.caption("A few gradient passes estimate every patch. The largest 10 and 20 drawn at random "
               "are then patched, so that you see whether to trust them.")  # fmt: skip
    wanted = st.toggle("Estimate and verify", key="estimate", bind="query-params")
    method = pick_of("Method", list(METHODS), "atp", key="method", shown=METHODS)
    if not wanted:
        return
    with guarded():
        with st.spinner("Estimating, then patching"):
            done = patch_jobs.checked(root(), ask, method)
        settings = patch_jobs.check_settings(root(), ask, method)
        if done is None:
            patch_jobs.keep_pairs(settings, ask)
            fit_job("attribute", settings, "Estimate and patch", key="start-check",
                    told=f"It takes {patch_jobs.check_cost(ask, method).told}, in a process of its "
                    "own; the page can be left.")  # fmt: skip
            return
        told = done.summary()
        figure = done.plot()
        figure.update_layout(title={"text": f"{METHODS[method]} beside patches",
                                    "subtitle": {"text": ""}})  # fmt: skip
        show_figure(
            figure, key="attribution", frame=done.to_frame(), code=checked_code(ask, method),
            alt="Estimated against measured effect of places",
            caption=f"{len(done.place)} places, {counted(done.measured)}. Rank correlation "
                    f"{told['spearman']:.2f} (of the random ones {told['spearman_random']:.2f}), "
                    f"slope {told['slope']:.2f} where 1 is right; control, another pair's answer: "
                    f"slope {told['control_slope']:.2f} where 0 is right. Of those called small at "
                    f"most {told['missed_bound']:.0%} are large (95 % bound). Dotted: agreement.",
        )  # fmt: skip
        if patch_jobs.is_kept(settings):
            fit_done("attribute", settings)
