"""The page Acceleration: what exits and drafts would save and cost, told from a store."""

import streamlit as st

from lensbench.app.state import inside, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.exit_board import exit_board, live_board
from lensbench.app.widgets.exit_threshold import threshold_panel
from lensbench.app.widgets.missing import missing
from lensbench.app.widgets.own_text import offer_own_text, offer_own_text_of
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import acceleration, acceleration_figures
from lensbench.app.workflows.acceleration import MEASURES, ExitAsk
from lensbench.app.workflows.sequences import name_of_model


def show() -> None:
    """Draw the page."""
    st.title("Acceleration")
    st.caption("Layers skipped, tokens drafted: predicted from stored states. The model does not "
               "run until you ask for it.")  # fmt: skip
    names = store_names()
    if not names:
        st.info("No activation store in this folder yet: let a model write a text of its own, or "
                "make a store on the page Capture.")  # fmt: skip
        offer_own_text()
        return
    name = choose("Store", names, key="store")
    if name is None:
        st.info("Choose a store, best one of a model's own continuations: from that, what is "
                "drafted and kept is predicted exactly.")  # fmt: skip
        offer_own_text()
        return
    with guarded():
        url = str(inside(name))
        with st.spinner("Opening the model that wrote the text"):
            lacks = acceleration.lacking(url)
        if lacks:
            missing(lacks, model=name_of_model(url))
            offer_own_text_of(name, url)
            return
        with st.spinner("Reading what every layer would say"):
            found = acceleration.held(url)
        st.caption(plain(acceleration.told_of_text(url)))
        if not found.exact:
            why = acceleration.why_a_guess(url)
            st.warning(plain(f"What follows is a guess, not a prediction: {why}."))
            offer_own_text_of(name, url)
        _study(url, found.table.n_layers)


@st.fragment
def _study(url: str, n_layers: int) -> None:
    with guarded():
        left, right = st.columns(2)
        with left:
            st.markdown("**Drafting, checked by all layers** (the text stays the same)")
            exit_layer = st.slider("Layers of the draft", 1, n_layers, max(1, n_layers // 2),
                                   key="exit", bind="query-params")  # fmt: skip
            draft = st.slider("Drafted tokens", 1, 12, 4, key="draft", bind="query-params")
        with right:
            st.markdown("**Leaving early, unchecked** (the text may change)")
            threshold = st.slider("Threshold", 0.0, 1.0, 0.6, 0.05, key="threshold",
                                  bind="query-params")  # fmt: skip
            measure = pick_of("Confidence", list(MEASURES), "softmax_diff", key="measure",
                              shown=MEASURES)  # fmt: skip
        ask = ExitAsk(url, int(exit_layer), int(draft), float(threshold), measure)
        threshold_panel(ask)
        exit_board(ask)
        live_board(ask)
        command_line(acceleration_figures.command_of(ask),
                     told="Every method with all its settings, on the command line:")  # fmt: skip
