"""Directions: a dictionary as a map, the latents nearest to a direction, and its geometry."""

import streamlit as st

from lensbench.app.widgets.dictionary_choice import choose_dictionary
from lensbench.app.widgets.latent_map import geometry_board, latent_map
from lensbench.app.widgets.nearest import nearest_board
from lensbench.app.widgets.states import guarded
from lensbench.app.widgets.toggle import one_of

MAP, NEAREST, GEOMETRY = "map", "nearest", "geometry"
PARTS = {MAP: "Map", NEAREST: "Nearest latents", GEOMETRY: "Geometry"}
BOARDS = {MAP: latent_map, NEAREST: nearest_board, GEOMETRY: geometry_board}


def show() -> None:
    """Draw the page."""
    st.title("Directions")
    st.caption("What the decoder rows of a dictionary point at, and at one another.")
    chosen = choose_dictionary(*st.columns(2))
    if chosen is None:
        return
    part = one_of("Show", PARTS, key="show")
    with guarded():
        BOARDS[part](*chosen)
