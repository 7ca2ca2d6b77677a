"""Figures of the page Acceleration: predictions as the sliders stand, a live run beside them."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import acceleration, acceleration_live
from lensbench.app.workflows import acceleration_code as written
from lensbench.app.workflows import acceleration_figures as figs
from lensbench.app.workflows.acceleration import ExitAsk
from lensbench.app.workflows.acceleration_live import AccelerationStudy
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.studies import load_code, told_of

COSTS = (
    "Serial layers wait for one another: plain decoding over this, what a device pays that is "
    "bound by reading weights. Drafting never saves FLOPs.",
    "Nothing is checked: agreement with what all layers would write, KL(full ‖ early exit).",
)


def exit_board(ask: ExitAsk) -> None:
    """Numbers and figures that need no run."""
    with st.spinner("Simulating every exit layer and draft length"):
        acceleration.draft_grid(ask.store)
    _numbers(ask)
    left, right = st.columns(2)
    with left:
        show_figure(
            figs.agreement_figure(ask.store), key="agreement",
            frame=acceleration.layer_frame(ask.store),
            code=written.agreement_code(ask),
            alt="Share of tokens at which each exit layer chooses what the full model writes",
            caption="Band: 95 % over texts. The last layer is the model itself.",
        )  # fmt: skip
    with right:
        show_figure(
            figs.counts_figure(ask), key="exits", frame=acceleration.exit_counts(ask),
            code=written.exits_code(ask),
            alt="Share of tokens that leave after each number of layers",
            caption=f"Threshold {ask.threshold:g} on: "
                    f"{acceleration.MEASURES[ask.measure].lower()}.",
        )  # fmt: skip
    grid = acceleration.draft_grid(ask.store)
    show_figure(
        figs.draft_figure(ask), key="drafts",
        frame=grid, code=written.drafts_code(ask),
        alt="Share of drafted tokens that are kept, by exit layer and draft length",
        caption="Accepted over drafted tokens, every exit layer and draft length.",
    )  # fmt: skip
    compute = one_of("Compute", figs.COMPUTES, key="compute")
    show_figure(
        figs.front_figure(ask, compute), key="front", frame=figs.front_drawn(ask),
        code=figs.python_of(ask, f"front_figure(ask, {compute!r})"),
        alt="Agreement against compute of early exits",
        caption="Agreement on the full model's text; keys and values above an exit are made up for "
                "later, and reading a confidence costs a head each time, so that leaving early can "
                "cost more FLOPs than it saves.",
    )  # fmt: skip


def _numbers(ask: ExitAsk) -> None:
    n = f"predicted for {figs.n_new(ask.store):,} new tokens"
    for (title, told), cost in zip(figs.headlines(ask).items(), COSTS, strict=True):
        with st.container(border=True, key=f"told-{title.partition(' ')[0].lower()}"):
            st.markdown(f"**{title}**, {n}")
            for column, (name, value) in zip(st.columns(len(told)), told.items(), strict=True):
                column.metric(name, value)
            st.caption(cost)


def live_board(ask: ExitAsk) -> None:
    """A live run, which is a job, beside what was predicted."""
    st.markdown("**Predicted against measured**")
    if not acceleration.held(ask.store).exact:
        st.info("A live run is compared with predictions from the model's own text; capture that "
                "first.")  # fmt: skip
        return
    with guarded():
        settings = acceleration_live.settings_of(root(), ask)
        found = acceleration_live.saved(root(), ask)
        if found is None:
            fit_job("live", settings, "Run the model and measure", key="live", told="Two of the "
                    "prompts are then decoded by every method, beside plain decoding, in a process "
                    "of its own; the page can be left.")  # fmt: skip
            return
        _measured(found, Path(settings["out"]))
        fit_done("live", settings)
    with guarded():
        show_figure(
            acceleration_live.stages_figure(ask), key="stages",
            code=python_of(acceleration_live.stages_figure, ask),
            alt="Agreement by layer, with stages of inference",
            caption="What tells stages of inference apart in larger models: attention to the last "
                    "few positions early, neurons that push tokens up and then down late. Each is "
                    "a share of its largest value; a model of few layers need not show them.",
        )  # fmt: skip


def _measured(found: AccelerationStudy, folder: Path) -> None:
    st.markdown(plain(acceleration_live.told(found)))
    grid = acceleration_live.drafts_of(found)
    prompts = f"n = {acceleration_live.n_prompts(found)} prompts. "
    made = told_of(found)
    for column, value in zip(st.columns(2), ("predicted", "measured"), strict=True):
        with column:
            show_figure(
                figs.grid_figure(grid, value, f"Drafts kept, {value}"),
                key=f"live-{value}", frame=grid, provenance=made,
                code=written.live_code(folder, value),
                alt=f"Share of drafted tokens kept, {value}, by exit layer and draft length",
                caption=f"{prompts}Accepted over drafted tokens.",
            )  # fmt: skip
    show_figure(
        acceleration_live.speedup_figure(found), key="speedup", frame=found.to_frame(),
        code=load_code(folder, 'found.plot("speedup")'), provenance=made,
        alt="Predicted against measured speed-up",
        caption=f"{prompts}CPU time, as a ratio to plain decoding in the same run; predicted from "
                "layers timed just before. A busy machine moves points off the line; below 1 is "
                "slower than plain decoding.",
    )  # fmt: skip
    show_listing(acceleration_live.others_of(found), alt="Methods, predicted and measured",
                 take="methods", data=found.to_frame(),
                 code=load_code(folder, "found.to_frame()"))  # fmt: skip
    show_figure(
        found.plot("pareto"), key="pareto", frame=found.to_frame(), provenance=made,
        code=load_code(folder, 'found.plot("pareto")'),
        alt="Agreement against layers per token of every method",
        caption=f"{prompts}Every method, by what it ran for each token of them; of pruned and "
                "skipping ones the agreement was measured in one pass over the text.",
    )  # fmt: skip
