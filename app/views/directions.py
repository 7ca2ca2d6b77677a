"""Directions: a dictionary as a map, the latents nearest to a direction, and its geometry."""

from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from lensbench.app.cache import latent_table, notes_on
from lensbench.app.state import root
from lensbench.app.widgets.dictionary_choice import choose_dictionary
from lensbench.app.widgets.latent_board import latent_board
from lensbench.app.widgets.latent_map import geometry_board, latent_map
from lensbench.app.widgets.nearest import nearest_board
from lensbench.app.widgets.note_editor import note_editor
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows.directions import Rows, provenance_of

MAP, NEAREST, GEOMETRY = "map", "nearest", "geometry"
PARTS = {MAP: "Map", NEAREST: "Nearest latents", GEOMETRY: "Geometry"}
BOARDS = {MAP: latent_map, NEAREST: nearest_board, GEOMETRY: geometry_board}


def show() -> None:
    """Draw the page."""
    st.title("Directions")
    st.caption("What the decoder rows of a dictionary point at, and at one another.")
    left, middle, right = st.columns(3)
    chosen = choose_dictionary(left, middle)
    if chosen is None:
        return
    run, name = chosen
    if "to-open" in st.session_state:  # what was clicked, before its field is drawn
        st.session_state["open"] = st.session_state.pop("to-open")
    opened = right.number_input(
        "Open latent", 0, len(latent_table(run, name)) - 1, None, key="open", bind="query-params",
        placeholder="Number, or click one",
    )  # fmt: skip
    part = one_of("Show", PARTS, key="show")
    with guarded():
        st.caption(plain(provenance_of(run, name)))
        if told := Rows.of(run, name).told:
            st.caption(told)
        BOARDS[part](run, name)
    if opened is not None:
        _open(run, name, int(opened))


def _open(run: Path, name: str, latent: int) -> None:
    """What the page Latents shows of one, below the picture it was found in."""
    st.header(f"Latent {latent}")
    about = {"run": run.relative_to(root()).as_posix(), "dictionary": name, "latent": latent}
    st.markdown(f"[On a page of its own](latent?{urlencode(about)})")
    with guarded():
        note_editor(notes_on(run, name), latent)
        latent_board(run, name, latent)
