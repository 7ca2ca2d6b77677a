"""Latents: find one of a dictionary, then read it, test it, steer with it, verify it."""

from pathlib import Path

import pandas as pd
import streamlit as st

from lensbench.app.cache import latent_table, notes_on
from lensbench.app.widgets.dictionary_choice import choose_dictionary
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.latent_board import latent_board
from lensbench.app.widgets.latent_lines import table_line
from lensbench.app.widgets.latent_table import find_latent
from lensbench.app.widgets.note_editor import note_editor
from lensbench.app.widgets.states import guarded
from lensbench.app.workflows.latent_code import density_code
from lensbench.app.workflows.latent_figures import density_figure


def show() -> None:
    """Draw the page."""
    st.title("Latents")
    left, middle, right = st.columns([3, 3, 2])
    chosen = choose_dictionary(left, middle)
    if chosen is None:
        return
    run, name = chosen
    table = latent_table(run, name)
    if "to-latent" in st.session_state:  # a row that was clicked, before its field is drawn
        st.session_state["latent"] = st.session_state.pop("to-latent")
    latent = right.number_input(
        "Open latent", 0, len(table) - 1, None, key="latent", bind="query-params",
        placeholder="Number, or click a row",
    )  # fmt: skip
    rows = find_latent(run, name, latent)
    if latent is not None:
        st.divider()
        with guarded():
            latent_board(run, name, int(latent))
        with guarded():
            kept = notes_on(run, name)
            with st.expander("My label and note", expanded=bool(kept[int(latent)])):
                note_editor(kept, int(latent))
        return
    if "density" in table.columns and len(rows):
        _densities(run, name, rows, len(table))
    elif len(rows):
        st.info("Densities and labels come with `lensbench eval sae`; until then: weights alone.")
    if st.session_state.get("find") != "text":
        table_line(run, name)


def _densities(run: Path, name: str, rows: pd.DataFrame, n: int) -> None:
    """How often the latents of the table fire."""
    show_figure(density_figure(rows), key="density", frame=rows,
                code=density_code(run, name, rows, n),
                alt=f"histogram of the firing frequency of {len(rows)} latents",
                caption=f"n = {len(rows)} of {n} latents; those that never fire have "
                "no place on a logarithmic axis.")  # fmt: skip
