"""The page Experts: which experts of a mixture a behaviour goes with, and whether it needs them."""

import streamlit as st

from lensbench.app.state import below
from lensbench.app.widgets.expert_map import expert_map
from lensbench.app.widgets.expert_rank import expert_rank
from lensbench.app.widgets.expert_sliders import expert_sliders
from lensbench.app.widgets.model_choice import choose_model
from lensbench.app.widgets.states import guarded, nothing_yet
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows.expert_page import DESK_SAYS, ExpertAsk

PARTS = {"sliders": "Move experts", "map": "Routing of a text", "rank": "Rank and study"}


def show() -> None:
    """Draw the page."""
    st.title("Experts")
    st.caption("Which experts the tokens of two classes of prompts are sent to, and what happens "
               "to the behaviour when they are taken out.")  # fmt: skip
    ask = _ask()
    if ask is None:
        return
    part = one_of("Show", PARTS, key="part")
    with guarded():
        {"sliders": expert_sliders, "map": expert_map, "rank": expert_rank}[part](ask)


def _ask() -> ExpertAsk | None:
    left, right = st.columns(2)
    with left:
        model = choose_model()
        prompts = st.text_input("Prompts", "desk:120", key="prompts", bind="query-params",
                                help="desk:N, or a .jsonl file with text and label.")  # fmt: skip
    with right:
        says = _says(prompts)
        top = int(st.number_input("Experts to move", 1, 8, 3, key="top", bind="query-params"))
    if model is None:
        nothing_yet("Choose a mixture of experts.", "lensbench experts rank --model atlas-moe "
                    "--prompts desk:120")  # fmt: skip
        st.button("Use the bundled atlas-moe", type="primary", key="bundled",
                  on_click=lambda: st.session_state.update(model="atlas-moe"))  # fmt: skip
        return None
    # A file is read from the folder shown, and from nowhere else.
    named = prompts if prompts.startswith("desk:") else str(below(prompts))
    return ExpertAsk(model, named, says, top)


def _says(prompts: str) -> str:
    if prompts.startswith("desk:"):
        return pick_of("Behaviour", list(DESK_SAYS), "", key="desk", shown=DESK_SAYS)
    return st.text_input("The behaviour says", key="says", bind="query-params",
                         placeholder="such as: cannot say").strip()  # fmt: skip
