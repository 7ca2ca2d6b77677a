"""One token's state in another prompt: the prompt, the map of layers, one cell of it."""

from typing import Any

import pandas as pd
import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.fit_job import fit_job
from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.lens_choice import token_first
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded, nothing_yet, plain
from lensbench.app.widgets.text_source import Source
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import jobs
from lensbench.app.workflows import lens_ask as asking
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.lens_ask import StateAsk
from lensbench.app.workflows.lenses import MAX_TEXT, LensAsk
from lensbench.plots import visible

VIEWS = {
    "prob": "Probability of the scored token",
    "above": "What exceeds every control",
    "top_prob": "Probability of the best token",
    "kl": "KL(without ‖ with the state)",
}
TOLD = {
    "this state": "this state",
    "mean state": "control: mean state of the text's other tokens",
    "random state": "control: a random state",
    "no state": "control: the prompt as it is",
    "logit lens of this state": "logit lens: this state read without a prompt",
}
OFFERS = {
    "example": "Take an example prompt",
    "identity": "Take the identity prompt",
    "selfie": "Take SelfIE's instruction",
}
TEXT_ENDS = 40
"""Tokens that are written at most."""


def ask_in_prompt(source: Source) -> None:
    """Draw it for one text: which token, which prompt; all else once both are there."""
    with guarded():
        lens = LensAsk(store=source.store, row=source.row, model=source.model, text=source.text)
        with st.spinner("Opening the model"):
            words, ready = asking.places_in(lens), asking.offers(lens)
        left, right = st.columns(2)
        with left:
            shown = {p: f"{p} {visible(w)}" for p, w in words.items()}
            places = list(words)
            first = token_first(lens, places, key="pos") if source.store else places[-1]
            position = pick_of("Token whose state is asked", places, first, key="pos",
                               shown=shown)  # fmt: skip
        token = right.text_input(
            "Token to score", key="token", bind="query-params",
            placeholder="what the model itself says next",
            help="One token, such as ␣Paris (␣ is a space); its probability is drawn in every cell",
        )  # fmt: skip
        target, slot = _editor(ready)
        example, _ = next(iter(ready.values()), asking.IDENTITY)
        ask = StateAsk(target if target.strip() else example, position, source.model, source.text,
                       source.store, source.row, slot.strip(), token)  # fmt: skip
        if target.strip():
            _answer(ask)
            return
        nothing_yet("Type the prompt that gets the state, or take one of those above.",
                    jobs.command_of("asked", asking.settings_of(ask)))  # fmt: skip


def _editor(ready: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """The prompt and its placeholder."""

    def fill(pair: tuple[str, str]) -> None:
        st.session_state["target"], st.session_state["slot"] = pair

    with st.container(horizontal=True):
        for name, pair in ready.items():
            st.button(OFFERS[name], key=f"ready-{name}", on_click=fill, args=(pair,))
    left, right = st.columns([3, 1])
    target = left.text_area(
        "Prompt that gets the state", key="target", max_chars=MAX_TEXT, height=100,
        bind="query-params", placeholder="cat -> cat and so on: a prompt that says what it holds",
    )  # fmt: skip
    slot = right.text_input(
        "Placeholder", key="slot", bind="query-params", placeholder="the last token",
        help="Every such token of the prompt gets the state; empty: its last token",
    )  # fmt: skip
    return target or "", slot or ""


@st.fragment
def _answer(ask: StateAsk) -> None:
    with guarded():
        with st.spinner("Putting the state into every layer of the prompt"):
            found = asking.layers_for(root(), ask)
        if found is None:
            runs, _ = asking.work_of(ask)
            fit_job("asked", asking.settings_of(ask, asking.folder_for(root(), ask)),
                    "Ask the state", key="start-asked", told=f"{runs:,} prompts, in a process of "
                    "its own; the page can be left.")  # fmt: skip
            return
        st.caption("The state stands in for what is bold: " + _marked(found))
        view = one_of("Shown", VIEWS, key="reading")
        layer, into = _cell(found)

        def pick(x: float, y: float) -> None:
            st.session_state["into"], st.session_state["layer"] = int(x), int(y)

        click_map(
            found.plot(view), pick, key="ask-map", chosen=(into, layer),
            frame=found.to_frame(), file=f"ask-{view}",
            code=python_of(asking.layers_of, ask, then=f".plot({view!r})"),
            alt=f"{VIEWS[view]}, by the layer a state is taken from and the layer of the "
                "prompt it is put into",
            caption=_told(found),
        )  # fmt: skip
        _at(ask, found, layer, into)
    command_line(jobs.command_of("asked", asking.settings_of(ask)))


def _told(found: Any) -> str:
    """n, the controls, and what the last column must not be taken for."""
    others = "a mean state and" if found.has_mean else "no mean state (no other token), but"
    n, reaches = len(found.layers), len(found.target_tokens) - 1 in found.target_positions
    last = ("there the prompt does not matter: it is the logit lens" if reaches
            else "from there it cannot reach the prompt's end")  # fmt: skip
    return (f"n = 1 token, its states of {n} layers. Control in every cell: {others} "
            f"{asking.DRAWS} random ones of the same length. Scored: "
            f"“{plain(visible(found.scored))}”. Last column: {last}.")  # fmt: skip


def _marked(found: Any) -> str:
    """The prompt's tokens, those that get the state in bold."""
    words = [plain(visible(word)) for word in found.target_tokens]
    return " ".join(f"**{w}**" if i in found.target_positions else w for i, w in enumerate(words))


def _cell(found: Any) -> tuple[int, int]:
    left, right = st.columns(2)
    middle = found.layers[len(found.layers) // 2]
    with left:
        layer = pick_of("Taken after block", list(found.layers), middle, key="layer")
    with right:
        into = pick_of("Put in after block", list(found.into), middle, key="into")
    return int(layer), int(into)


def _at(ask: StateAsk, found: Any, layer: int, into: int) -> None:
    word = plain(visible(found.source_tokens[found.position]))
    st.markdown(f"**What the prompt says with “{word}” from block {layer} in block {into}**")
    cell = found.at(layer, into)
    k = len(found.plain_top)
    best = range(1, min(k, 3) + 1)
    said = [", ".join(f"{visible(str(row[f'top{i}']))} {row[f'top{i}_prob']:.2f}" for i in best)
            for row in cell.to_dict("records")]  # fmt: skip
    scored = f"P({visible(found.scored)})"
    table = pd.DataFrame({
        "with": [TOLD[name] for name in cell["reading"]], "says": said,
        scored: [f"{p:.3f}" for p in cell["prob"]],
    })  # fmt: skip
    show_listing(table, alt="What the prompt says with this state, and with its controls",
                 take="ask-cell", data=cell,
                 code=python_of(asking.layers_of, ask, then=f".at({layer}, {into})"))  # fmt: skip
    n = int(st.slider("Let it write on (tokens)", 0, TEXT_ENDS, 0, key="write",
                      bind="query-params"))  # fmt: skip
    if not n:
        return
    with st.spinner("The prompt writes on"):
        text = asking.written(ask, layer, into, n)
    for name, said in zip(("With the state", "As it is"), text.attrs["texts"], strict=True):
        st.markdown(f"{name}: {plain(visible(said))}")
    heads = {"step": "Step", "token": "Token", "p_with": "With the state", "p_without": "Without",
             "relevancy": "Difference"}  # fmt: skip
    show_listing(text, alt="Tokens written with the state, and how likely each is without it",
                 headings=heads, digits=3, take="ask-text",
                 code=python_of(asking.written, ask, layer, into, n),
                 caption=f"n = {len(text)} tokens of one text. A token that is as likely without "
                         "the state comes from the prompt.")  # fmt: skip
