"""The routing of one text as a map, token by layer."""

import streamlit as st

from lensbench.app.widgets.expert_prompt import expert_prompt
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.model_choice import opened
from lensbench.app.widgets.states import command_line, in_shell
from lensbench.app.widgets.text_source import choose_row
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import expert_routing
from lensbench.app.workflows.expert_page import ExpertAsk

PROMPT, STORED = "prompt", "stored"


def expert_map(ask: ExpertAsk) -> None:
    """A typed prompt (run once), or a stored sequence (nothing is run)."""
    kinds = {PROMPT: "A prompt", STORED: "A stored sequence"}
    source = one_of("Tokens of", kinds, key="tokens")
    line = in_shell("experts", "map", "--model", ask.model, "--prompts", ask.prompts)
    url, row, prompt = "", 0, ""
    if source == STORED:
        found = choose_row(lambda _: line)
        if found is None:
            return
        url, row = found.store, found.row
        with st.spinner("Reading the stored routing"):
            frame = expert_routing.stored(url, row)
    else:
        opened(ask.model)
        prompt = expert_prompt(ask)
        with st.spinner("Running the model on the prompt"):
            frame = expert_routing.typed(ask.model, prompt)
    colour = one_of("Colour", expert_routing.COLOURS, key="colour")
    shown = expert_routing.drawn(frame)
    n, all_tokens = (len(set(one["position"])) for one in (shown, frame))
    cut = f"The first {n} of {all_tokens} tokens are drawn. " if n < all_tokens else ""
    show_figure(
        expert_routing.routing_figure(shown, colour), key="routing", frame=shown,
        code=expert_routing.python_of(ask.model, prompt, url, row, colour),
        alt="Expert of largest weight at every token and layer",
        caption=f"n = {all_tokens} tokens. {cut}A cell names the expert of largest weight; hover "
                "for all gates of the token." + (" Read from the store; nothing was run."
                                                 if url else ""),
    )  # fmt: skip
    command_line(line, told="Where the tokens of all the prompts go, on the command line:")
