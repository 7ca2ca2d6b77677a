"""The map of a sweep with its baselines, and the cell that was clicked."""

from typing import Any

import numpy as np
import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.workflows import patch_cell, patch_jobs, patching
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.patch_code import baselines_code, held_out_code
from lensbench.app.workflows.patch_names import counted, said
from lensbench.app.workflows.patching import HOWS, PatchAsk

FORMULAS = {
    "logit_diff": "logit(answer) - logit(wrong answer) at the last token, nats",
    "kl": "KL(clean ‖ this run) [nats] of the next token; 0 where nothing changed",
    "probability": "p(answer) at the last token, 0 to 1",
    "rank": "rank of the answer among all tokens, 1 is the most probable",
    "loss": "-log p(answer), nats",
}

VERIFY = "Verify on held-out pairs"
HELP = ("On pairs that the map has not seen: this place, random steps of the same length there, "
        "and other places drawn at random")  # fmt: skip


def show_map(ask: PatchAsk, result: Any) -> None:
    """Map, baselines, and what is known of the chosen cell."""
    places = list(range(len(result.site)))
    top = int(np.nanargmax(np.abs(np.nan_to_num(result.effect, nan=result.base) - result.base)))
    order = list(dict.fromkeys(result.position))
    heads = bool((result.head >= 0).any())

    def at(index: int) -> tuple[float, float]:
        x = int(result.head[index]) if heads else order.index(result.position[index])
        return float(x), float(result.layer[index])

    def pick(x: float, layer: float) -> None:
        found = [i for i in places if at(i) == (round(x), round(layer))]
        if found:
            st.session_state["place"] = names[found[0]]

    names = [patch_cell.name_of(ask, i) for i in places]
    ranked = sorted(places, key=lambda i: -abs(np.nan_to_num(result.effect[i]) - result.base))
    if st.session_state.get("place", names[0]) not in names:
        st.session_state["place"] = names[ranked[0]]  # it was chosen on another map
    name = st.selectbox("Place (largest effect first)", [names[i] for i in ranked], key="place",
                        bind="query-params") or names[top]  # fmt: skip
    index = names.index(name)
    left, right = st.columns([3, 2])
    with left:
        figure = result.plot()
        figure.update_layout(title={"text": _title(ask)})
        click_map(
            figure, pick, key="patching", chosen=at(index), frame=result.to_frame(),
            code=patching.python_of(ask),
            alt=f"Effect of {ask.how} at {ask.sites[0]} by layer and place",
            caption=f"{counted(result.values)}.",
        )  # fmt: skip
    with right:
        show_figure(patch_cell.baselines_figure(result, index), key="baselines",
                    frame=result.beside(index), code=baselines_code(ask, index),
                    alt="Metric of clean, corrupted, random and this patch")  # fmt: skip
    st.caption(
        f"{result.n} prompt pairs; {said(result.metric)} {result.clean.mean():.2f} on clean and "
        f"{result.corrupted.mean():.2f} on corrupted prompts ({result.unit}). Effect: (patched - "
        "corrupted) / (clean - corrupted), means over pairs; 0 is corrupted, 1 is clean. Random "
        f"steps of the same length: {plain(str(result.controls))}."
    )
    scored = patching.scoring_told({**patching.scoring_of(result), "prompts": result.n})
    if scored:
        st.caption(scored.capitalize() + ".")
    _place(ask, result, index, name)


def _title(ask: PatchAsk) -> str:
    where = patching.SITES_SHOWN.get(ask.sites[0], ask.sites[0])
    return f"{HOWS[ask.how].partition(':')[0]}: {where}"


def _place(ask: PatchAsk, result: Any, index: int, name: str) -> None:
    low, high = result.intervals()
    st.markdown(f"**{plain(name.capitalize())}: effect {result.effect[index]:.3f}**")
    told = f"95 % interval {low[index]:.3f} to {high[index]:.3f}, pairs resampled"
    interval = "an interval needs 2 pairs" if np.isnan(low[index]) else told
    st.caption(f"{interval}; n = {int(np.isfinite(result.values[index]).sum())} pairs. "
               + plain(patch_cell.verdict_of(result, index)))  # fmt: skip
    with guarded():
        settings = patch_jobs.place_settings(root(), ask, index)
        if (found := _held_out(ask, index, settings)) is not None:
            (st.success if found.standing.stands_out else st.info)(plain(found.verdict))
            show_listing(found.frame.round(3), alt="The place and its control", take="held-out",
                         data=found.frame, code=held_out_code(ask, index))  # fmt: skip
            if patch_jobs.is_kept(settings):
                fit_done("place", settings)
    with guarded():
        _pairs(ask, index)


def _pairs(ask: PatchAsk, index: int) -> None:
    """What every pair does under the patch; what it says only at once where that is quick."""
    said, effort = ["said before", "says now"], patch_jobs.said_cost(ask)
    if not (effort.short or st.session_state.get("said-of") == (ask, index)):
        if st.button("Say what the model says", key="say-pairs", help=f"Takes {effort.told}"):
            st.session_state["said-of"] = (ask, index)
        else:
            said = []
    more = ", and what the model says before and after" if said else ""
    st.markdown(f"**Pair by pair{more}**")
    with st.spinner("Running every pair with this patch"):
        k = 3 if said else 0
        table = patch_cell.pair_by_pair(ask, index, k)
    first = ["pair", "answer", "effect", *said]
    rest = [c for c in table.columns if c not in first]
    shown = table.reindex(columns=[*first, *rest]).round(3)
    show_listing(shown, alt="Values of every pair", take="by-pair", data=table,
                 code=python_of(patch_cell.pair_by_pair, ask, index, k))  # fmt: skip


def _held_out(ask: PatchAsk, index: int, settings: dict[str, Any]) -> Any:
    """The place on pairs that the map has not seen, once that was asked for."""
    if (saved := patch_jobs.place_check(settings)) is not None:
        return saved
    effort = patch_jobs.place_cost(ask)
    if not (effort.short or ask.own):
        fit_job("place", settings, VERIFY, key="start-place",
                told=f"{HELP}. It takes {effort.told}, in a process of its own.")  # fmt: skip
        return None
    if st.button(VERIFY, key="verify", type="primary", help=HELP):
        st.session_state["verified-place"] = (ask, index)
    if st.session_state.get("verified-place") != (ask, index):
        return None
    with st.spinner("Patching the held-out pairs"):
        return patch_cell.verify(ask, index)
