"""Sliders of single experts: a prompt answered clean and steered, rates when asked for."""

import streamlit as st

from lensbench.app.widgets.choose import several
from lensbench.app.widgets.expert_prompt import expert_prompt
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.token_diff import token_diff
from lensbench.app.workflows import expert_page, expert_steering
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.expert_page import ExpertAsk
from lensbench.app.workflows.expert_steering import NEUTRAL, STEP, Weights

MOST = 8
"""Sliders at once."""


def expert_sliders(ask: ExpertAsk) -> None:
    """Choose experts, move them, see what the model then says."""
    with st.spinner("Ranking the experts by the routing of every prompt"):
        ranking = expert_page.ranked(ask)
    known = [f"{a}:{b}" for a, b in expert_page.likely(ranking, ranking.differential[0].size)]
    chosen = several("Experts (layer:expert), most distinctive first", known, known[: ask.top],
                     key="experts", empty="Choose experts to move")[:MOST]  # fmt: skip
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
                    f"answer by {said.kl:.3g} nats (KL from clean). The other experts of a token "
                    "keep its sum of gate weights.")  # fmt: skip
        token_diff({"clean": said.words["clean"], "steered": said.words["steered"]},
                   {"clean": said.clean, "steered": said.steered}, take="expert-said",
                   caption=" ".join(filter(None, (told, expert_steering.shown(ask, said)))),
                   code=python_of(expert_steering.answered, ask.model, prompt, weights,
                                  then=".frame"))  # fmt: skip
        _rates(ask, weights)
    with st.expander("The same as Python and on the command line"):
        st.code(expert_steering.python_of(ask.model, prompt, weights), language="python")
        command_line(expert_steering.command_of(ask, weights))


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
    key = (ask, weights)
    where = expert_steering.held_out(ask)[1]
    label = "Rate of the behaviour, beside matched random experts"
    if st.button(label, key="rates", disabled=not any(w for *_, w in weights),
                 help=f"Answers every prompt clean, steered and with {expert_steering.DRAWS} sets "
                 "of random experts"):  # fmt: skip
        st.session_state["rates-of"] = key
    if st.session_state.get("rates-of") != key:
        st.caption(plain(f"Over {where}; takes some seconds."))
        return
    with st.spinner("Answering every prompt clean, steered and with random experts"):
        frame, told = expert_steering.rates(ask, weights)
    st.markdown(f"**{plain(expert_steering.verdict(frame, weights))}**")
    show_figure(
        expert_steering.rates_figure(frame), key="expert-rates", frame=frame,
        code=expert_steering.rates_code(ask, weights),
        alt="Rate of the behaviour clean, steered, and with random experts",
        caption=f"n = {int(frame['n'].iloc[0])} prompts: {plain(told)}. Wilson intervals, 95 %. "
                "Control: random experts of the same layers and about the same load, moved as far.",
    )  # fmt: skip
