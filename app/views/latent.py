"""Latent: find one in the table of a dictionary, then see where it fires and what it writes."""

from pathlib import Path

import streamlit as st

from lensbench.app.cache import latent_table, notes_on
from lensbench.app.state import inside, root, run_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.latent_board import latent_board
from lensbench.app.widgets.latent_table import filtered
from lensbench.app.widgets.note_editor import note_editor, notes_files
from lensbench.app.widgets.states import guarded, nothing_yet
from lensbench.app.workflows.latent_figures import density_figure
from lensbench.app.workflows.latent_page import dictionaries_of
from lensbench.app.workflows.notes import with_notes


def show() -> None:
    """Draw the page."""
    st.title("Latent")
    names = run_names()
    left, middle, right = st.columns(3)
    with left:
        chosen = choose("Run", names, key="run")
    if not names:
        nothing_yet("No runs in this folder yet.", f"lensbench demo --out {root()}/demo-run",
                    next_step="Start one on the page Runs, or make the demo.")  # fmt: skip
        return
    if chosen is None:
        st.info("Choose a run, then one of its dictionaries.")
        return
    run = inside(chosen)
    known = dictionaries_of(run)
    if not known:
        nothing_yet("No dictionary of this run is finished yet.", f"lensbench runs show {run}",
                    next_step="Follow it on the page Runs.")  # fmt: skip
        return
    with middle:
        name = choose("Dictionary", known, key="dictionary")
    if name is None:
        st.info(f"Choose one of {len(known)} dictionaries.")
        return
    table = latent_table(run, name)
    if "to-latent" in st.session_state:  # a row that was clicked, before its field is drawn
        st.session_state["latent"] = st.session_state.pop("to-latent")
    latent = right.number_input(
        "Latent", 0, len(table) - 1, None, key="latent", bind="query-params",
        placeholder="Number, or click a row",
    )  # fmt: skip
    if latent is not None:
        with guarded():
            note_editor(notes_on(run, name), int(latent))
            latent_board(run, name, int(latent))
    _table(run, name)


def _table(run: Path, name: str) -> None:
    st.subheader("All latents")
    table = latent_table(run, name)
    with guarded():
        kept = notes_on(run, name)
        table = with_notes(table, kept)
        notes_files(str(run), len(kept))
    rows = filtered(table)
    if "density" in table.columns:
        show_figure(density_figure(rows), key="density",
                    alt=f"histogram of the firing frequency of {len(rows)} latents",
                    caption=f"n = {len(rows)} of {len(table)} latents; those that never fire have "
                    "no place on a logarithmic axis.")  # fmt: skip
    else:
        st.info("Densities and labels come with `lensbench eval sae`; until then: weights alone.")
    take_away(rows, key="latents")
