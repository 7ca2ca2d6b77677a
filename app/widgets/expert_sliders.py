"""Sliders of single experts: a prompt answered clean and steered, rates when asked for."""

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.choose import several
from lensbench.app.widgets.expert_prompt import expert_prompt
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.token_diff import token_diff
from lensbench.app.workflows import expert_jobs, expert_page, expert_rates, expert_steering, jobs
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.expert_code import said_code
from lensbench.app.workflows.expert_page import ExpertAsk
from lensbench.app.workflows.expert_steering import NEUTRAL, STEP, Weights
from lensbench.app.workflows.studies import is_saved, told_of

MOST = 8
"""Sliders at once."""


def expert_sliders(ask: ExpertAsk) -> None:
    """Choose experts, move them, see what the model then says."""
    with st.spinner("Ranking the experts by the routing of every prompt"):
        ranking = expert_page.ranked(ask)
    known = [f"{a}:{b}" for a, b in expert_page.likely(ranking, ranking.differential[0].size)]
    chosen = _chosen(known, known[: ask.top])
    st.caption(plain(expert_page.against_chance(ranking, chosen)))
    with st.container(horizontal=True):
        st.button("Suppress all of these", key="suppress", on_click=_set, args=(chosen, -1.0))
        st.button("Back to neutral", key="neutral", on_click=_set, args=(chosen, NEUTRAL))
    columns = st.columns(min(4, max(1, len(chosen))))
    weights: Weights = tuple(
        _slider(name, columns[i % len(columns)]) for i, name in enumerate(chosen)
    )
    prompt = expert_prompt(ask)
    with guarded():
        with st.spinner("The model answers, clean and steered"):
            said = expert_steering.answered(ask.model, prompt, weights)
        moved = sum(bool(w) for *_, w in weights)
        if not moved:
            told = "Every slider is at 0: the model runs as it is; its logits are bit-identical."
        elif said.identical:
            told = "No token of this prompt is sent to these experts: its logits are bit-identical."
        else:
            told = (f"{moved} of {len(weights)} sliders are moved, and the first token of the "
                    f"answer by {said.kl:.3g} nats, KL(clean ‖ steered). The other experts of a "
                    "token keep its sum of gate weights.")  # fmt: skip
        token_diff({"clean": said.words["clean"], "steered": said.words["steered"]},
                   {"clean": said.clean, "steered": said.steered}, take="expert-said",
                   caption=" ".join(filter(None, (told, expert_steering.shown(ask, said)))),
                   code=python_of(expert_steering.answered, ask.model, prompt, weights,
                                  then=".frame"))  # fmt: skip
        _rates(ask, weights)
    with st.expander("The same as Python and on the command line"):
        st.code(said_code(ask.model, prompt, weights), language="python")
        told = "The rate of the behaviour, beside random experts, on the command line:"
        if any(w for *_, w in weights):
            command_line(jobs.command_of("rates", expert_jobs.rates_said(ask, weights)), told=told)


def _chosen(known: list[str], first: list[str]) -> tuple[str, ...]:
    """What was chosen by hand; until something is, the most distinctive of the behaviour."""
    before = st.session_state.get("experts-at-first")
    if before is not None and list(st.session_state.get("experts", ())) == before != first:
        # They were those of another behaviour. Set, not deleted: the browser would keep its own.
        st.session_state["experts"] = first
    st.session_state["experts-at-first"] = first
    found = several("Experts (layer:expert), most distinctive first", known, first,
                    key="experts", empty="Choose experts to move")[:MOST]  # fmt: skip
    if list(found) != first:
        st.button(f"Take the {len(first)} most distinctive: {', '.join(first)}", key="distinctive",
                  on_click=lambda: st.session_state.update(experts=first))  # fmt: skip
    return found


def _slider(name: str, column: object) -> tuple[int, int, float]:
    layer, expert = (int(n) for n in name.split(":"))
    with column:  # pyright: ignore[reportGeneralTypeIssues] - a column of streamlit
        value = st.slider(f"Layer {layer}, expert {expert}", -1.0, 1.0, NEUTRAL, STEP,
                          key=f"w{layer}-{expert}", bind="query-params", format="%+.2f",
                          help="-1 takes it out, 0 changes nothing, +1 forces it into every "
                               "token")  # fmt: skip
    return layer, expert, float(value)


def _set(chosen: tuple[str, ...], value: float) -> None:
    for name in chosen:
        st.session_state["w" + name.replace(":", "-")] = value


def _rates(ask: ExpertAsk, weights: Weights) -> None:
    moved = tuple(w for w in weights if w[2])
    label = "Rate of the behaviour, beside matched random experts"
    where = expert_rates.held_out(ask)[1]
    if not moved:
        st.button(label, key="rates", disabled=True, help="Move a slider first")
        st.caption(plain(f"Over {where}."))
        return
    settings = expert_jobs.rates_settings(root(), ask, moved)
    saved = is_saved(settings)
    if not saved and not expert_jobs.at_once(ask):
        fit_job("rates", settings, label, key="start-rates", told=f"Over {where}; in a process of "
                "its own, the page can be left.")  # fmt: skip
        return
    if not saved and st.session_state.get("rates-of") != (ask, moved):
        st.button(label, key="rates", on_click=_measure, args=(ask, moved),
                  help=f"Answers every prompt clean, steered and with {expert_page.DRAWS} sets of "
                  "random experts")  # fmt: skip
        st.caption(plain(f"Over {where}; takes some seconds."))
        return
    with st.spinner("Answering every prompt clean, steered and with random experts"):
        found = expert_jobs.rates_for(root(), ask, moved)
    if found is None:  # removed meanwhile
        return
    st.markdown(f"**{plain(found.verdict())}**")
    show_figure(
        found.plot(), key="expert-rates", frame=found.to_frame(), provenance=told_of(found),
        code=expert_rates.rates_code(ask, moved),
        alt="Rate of the behaviour clean, steered, and with random experts",
        caption=f"n = {found.n} prompts: {plain(where)}. Wilson intervals, 95 %. Control: random "
                "experts of the same layers and about the same load, moved as far.",
    )  # fmt: skip
    fit_done("rates", settings)


def _measure(ask: ExpertAsk, moved: Weights) -> None:
    st.session_state["rates-of"] = (ask, moved)
