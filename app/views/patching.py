"""The page Patching: which place of the network carries the answer of a prompt task."""

import streamlit as st

from lensbench.app.state import inside, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import patching
from lensbench.app.workflows.lenses import model_names
from lensbench.app.workflows.patching import HOWS, METRICS_SHOWN, SITES_SHOWN, TASKS, PatchAsk
from lensbench.words import spelled


def show() -> None:
    """Draw the page."""
    st.title("Patching")
    st.caption("Put the state of one run into another and see whether the answer comes along.")
    ask = _ask()
    if ask is None:
        return
    with guarded():
        with st.spinner("Patching every place"):
            result = patching.kept(ask)
        show_figure(
            result.plot(), key="patching", frame=result.to_frame(), code=patching.python_of(ask),
            alt=f"Effect of {ask.how} at {ask.sites[0]} by layer and place, task {ask.task}",
            caption=f"{result.n} prompt pairs; {spelled(result.metric)} "
                    f"{result.clean.mean():.2f} on clean "
                    f"and {result.corrupted.mean():.2f} on corrupted prompts ({result.unit}). "
                    f"Random steps of the same length: {result.controls}.",
        )  # fmt: skip
        scored = patching.scoring_told({**patching.scoring_of(result), "prompts": result.n})
        if scored:
            st.caption(scored.capitalize() + ".")
        st.markdown("**Strongest places**")
        shown = ["site", "position", "head", "effect", "low", "high", "value", "n"]
        unused = {"position"} if not any(result.position) else set[str]()
        unused |= {"head"} if result.head.max() < 0 else set[str]()
        top = result.top(10).filter([c for c in shown if c not in unused])
        show_listing(top, alt="The places with the largest effect")
        command_line(patching.command_of(ask))


def _ask() -> PatchAsk | None:
    left, right = st.columns(2)
    with left:
        stores = [str(inside(s)) for s in store_names()]
        model = choose("Model", model_names(stores), key="model", default=None)
        task = pick_of("Task", list(TASKS), TASKS[0], key="task")
    with right:
        site = pick_of("Site", list(SITES_SHOWN), "resid_pre", key="site", shown=SITES_SHOWN)
        how = pick_of("Intervention", list(HOWS), "denoise", key="how", shown=HOWS)
    metric = one_of("Metric", METRICS_SHOWN, key="metric")
    if model is None:
        st.info("Choose a model; the sweep starts at once (32 prompt pairs).")
        return None
    together = "" if site in ("resid_pre", "resid_mid", "mlp_out", "attn_out") else "together"
    return PatchAsk(task, model, sites=(site,), how=how, metric=metric, positions=together)
