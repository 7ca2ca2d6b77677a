"""The site lens and the component lens of one text: a clickable map, and one cell of it."""

from typing import Any

import pandas as pd
import streamlit as st

from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.lens_choice import PARTS, token_first
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import lens_places as places
from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.lens_places import COMPONENTS, METRICS, SITES, PlacesAsk
from lensbench.app.workflows.lenses import LensAsk
from lensbench.plots import visible

NORMS = {"own": "By itself", "held": "As its share of the logits"}
SHORT = {"probability": st.column_config.NumberColumn(format="%.3g")}
WORDS = {
    "target_rank": "rank of next token",
    "target_prob": st.column_config.NumberColumn("its probability", format="%.3g"),
    "top": "says",
}


@st.fragment
def show_places(text: LensAsk, kind: str) -> None:
    """Draw what blocks or components write; a click chooses a cell."""
    with guarded():
        ask = PlacesAsk(text, COMPONENTS) if kind == PARTS else _site(text)
        with st.spinner("Running the model on this text"):
            lens = places.places_for(ask)
        metric = one_of("Metric", METRICS, key="score")
        block = "all"
        if kind == PARTS:
            blocks = places.blocks_of(lens)
            block = pick_of("Block", blocks, blocks[0], key="block")
        tokens = dict(zip(lens.positions.tolist(), lens.tokens, strict=True))
        position, order = _cell(places.frame_of(lens, block), tokens, text)

        def pick(x: float, y: float) -> None:
            st.session_state["at"], st.session_state["place"] = int(x), int(y)

        click_map(
            places.figure_of(ask, metric, block), pick, key="places-map", chosen=(position, order),
            frame=places.frame_of(lens, block), code=places.python_of(ask, metric, block),
            file=f"lens-{ask.where}-{metric}", provenance=places.model_told(ask),
            alt=f"{kind} of {len(lens.tokens)} tokens: {METRICS[metric]}",
            caption=f"{METRICS[metric]}, n = 1 text. {plain(places.told_of(ask, lens))}. Colours "
                    "have one range for every text of this model.",
        )  # fmt: skip
        _best(ask, lens, position, order)


def _site(text: LensAsk) -> PlacesAsk:
    where = one_of("Read at", SITES, key="site")
    norm = "own" if where == "resid_mid" else one_of("Norm of what is added", NORMS, key="norm")
    return PlacesAsk(text, where, norm)


def _cell(frame: pd.DataFrame, tokens: dict[int, str], text: LensAsk) -> tuple[int, int]:
    rows = frame.drop_duplicates("order")
    shown = dict(zip(rows["order"].tolist(), rows["place"].tolist(), strict=True))
    left, right = st.columns(2)
    with left:
        positions = list(tokens)
        at = token_first(text, positions, key="at")
        position = pick_of("Token", positions, at, key="at",
                           shown={p: f"{p} {visible(w)}" for p, w in tokens.items()})  # fmt: skip
    with right:
        orders = list(shown)
        order = pick_of("Place", orders, orders[-1], key="place", shown=shown)
    return int(position), int(order)


def _best(ask: PlacesAsk, lens: Any, position: int, order: int) -> None:
    column = lens.positions.tolist().index(position)
    word, target = visible(lens.tokens[column]), lens.targets[column]
    left, right = st.columns([2, 3])
    with left:
        st.markdown(f"**Best tokens of this cell, predicted at {plain(word)}**")
        best = places.best_at(lens, position, order)
        if all(p != p for p in best["probability"]):
            st.info("It writes nothing here that tells one token from another.")
        else:
            show_listing(best, config=SHORT, alt="Best tokens of this cell", take="places-best",
                         code=python_of(places.best_at, Call(places.places_for, ask),
                                        position, order))  # fmt: skip
    with right:
        if not target:
            st.info("The text ends at this token: nothing follows that could be ranked.")
            return
        st.markdown(f"**Who ranks the next token, {plain(visible(target))}, best**")
        found = places.writers_at(lens, position)
        show_listing(found, config=WORDS, take="places-writers",
                     alt="Places that rank the next token best",
                     code=python_of(places.writers_at, Call(places.places_for, ask),
                                    position))  # fmt: skip
