"""The map of a text through the logit lens or a tuned one, and the cell that is looked at."""

import streamlit as st

from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.lens_cell import show_cell
from lensbench.app.widgets.lens_choice import token_first
from lensbench.app.widgets.lens_note import tall_enough
from lensbench.app.widgets.lens_special import special_toggle
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import lenses
from lensbench.app.workflows.lens_special import grey, python_of_grey
from lensbench.app.workflows.lenses import LensAsk
from lensbench.plots import visible

NAMES = {
    "top_prob": "Probability of the best token",
    "target_prob": "Probability of the next token",
    "target_rank": "Rank of the next token",
    "entropy": "Entropy",
    "kl_to_final": "KL(final ‖ this layer)",
}
"""The first one is known at the last token too, which no token follows."""


@st.fragment
def show_map(ask: LensAsk) -> None:
    """Draw the map; a click chooses a cell and runs nothing."""
    kept = {k: v for k, v in NAMES.items() if k != "kl_to_final" or not lenses.lacking(ask)}
    if st.session_state.get("metric", next(iter(kept))) not in kept:
        # Chosen for a store with every layer. Set: a browser goes on showing what it had.
        st.session_state["metric"] = next(iter(kept))
    metric = one_of("Metric", kept, key="metric")
    with guarded():
        with st.spinner("Reading the store" if ask.store else "Running the model on this text"):
            lens, special = lenses.lens_for(ask), lenses.special_of(ask)
        hidden = special if special_toggle(special) else []
        places, left, right = lens.positions.tolist(), *st.columns(2)
        with left:
            words = zip(places, lens.tokens, strict=True)
            position = pick_of("Token", places, token_first(ask, places, key="pos"), key="pos",
                               shown={p: f"{p} {visible(w)}" for p, w in words})  # fmt: skip
        with right:
            middle = lens.layers[len(lens.layers) // 2]
            layer = pick_of("After block", lens.layers, middle, key="layer")

        def pick(x: float, y: float) -> None:
            st.session_state["pos"], st.session_state["layer"] = int(x), int(y)

        lens = grey(lens, hidden)
        click_map(
            tall_enough(lens.plot(metric), len(lens.layers)), pick, key="lens-map",
            chosen=(position, layer), frame=lens.to_frame(), file=f"lens-{metric}",
            code=python_of_grey(lenses.python_of(ask, metric), hidden),
            alt=f"Lens of {len(places)} tokens over {len(lens.layers)} layers: {NAMES[metric]}",
            caption=f"{NAMES[metric]}, {plain(lens.source)}. Colours have one range for every "
                    f"text of this model. {'Special tokens are left out. ' * bool(hidden)}"
                    f"Remember: {lenses.reminder(ask)}.",
        )  # fmt: skip
        show_cell(ask, position, layer)
