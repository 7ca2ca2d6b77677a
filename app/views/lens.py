"""The page Lens: what every layer would predict at every token of one text."""

import streamlit as st

from lensbench.app.state import inside, store_names
from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.lens_cell import show_cell
from lensbench.app.widgets.lens_choice import choose_lens
from lensbench.app.widgets.lens_note import lens_note, tall_enough
from lensbench.app.widgets.lens_pair import show_pair
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.text_source import STORED, TYPED, choose_source
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import lenses
from lensbench.app.workflows.lenses import LensAsk

NAMES = {
    "target_prob": "Probability of the next token",
    "target_rank": "Rank of the next token",
    "top_prob": "Probability of the best token",
    "entropy": "Entropy",
    "kl_to_final": "KL to the final layer",
}


def show() -> None:
    """Draw the page."""
    st.title("Lens")
    st.caption("What each layer would predict if it were the last. Click a cell to follow it.")
    view = {"one": "One text", "pair": "Two texts"}
    if one_of("Look at", view, key="view") == "pair":
        show_pair(lenses.model_names([str(inside(s)) for s in store_names()]))
        return
    source = choose_source(STORED, TYPED)
    if source is None:
        return
    with guarded():
        ask = LensAsk(store=source.store, row=source.row, model=source.model, text=source.text,
                      lens=choose_lens())  # fmt: skip
        if lens_note(ask):
            _map(ask)


@st.fragment
def _map(ask: LensAsk) -> None:
    kept = {k: v for k, v in NAMES.items() if k != "kl_to_final" or not lenses.lacking(ask)}
    if st.session_state.get("metric", "target_prob") not in kept:
        del st.session_state["metric"]  # chosen for a store with every layer
    metric = one_of("Metric", kept, key="metric")
    with guarded():
        lens = lenses.lens_for(ask)
        places, left, right = lens.positions.tolist(), *st.columns(2)
        with left:
            position = pick_of("Token (its position)", places, places[max(0, len(places) - 2)],
                               key="pos")  # fmt: skip
        with right:
            middle = lens.layers[len(lens.layers) // 2]
            layer = pick_of("After block", lens.layers, middle, key="layer")

        def pick(x: float, y: float) -> None:
            st.session_state["pos"], st.session_state["layer"] = int(x), int(y)

        click_map(
            tall_enough(lens.plot(metric), len(lens.layers)), pick, key="lens-map",
            chosen=(position, layer), frame=lens.to_frame(), file=f"lens-{metric}",
            code=lenses.python_of(ask, metric),
            alt=f"Lens of {len(places)} tokens over {len(lens.layers)} layers: {NAMES[metric]}",
            caption=f"{NAMES[metric]}, {plain(lens.source)}. Colours have one range for every "
                    f"text of this model. Remember: {lenses.reminder(ask)}.",
        )  # fmt: skip
        show_cell(ask, position, layer)
