"""Latent: find one in the table of a dictionary, then see where it fires and what it writes."""

from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from lensbench.app.cache import latent_table, notes_on
from lensbench.app.state import root
from lensbench.app.widgets.dictionary_choice import choose_dictionary
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.latent_board import latent_board
from lensbench.app.widgets.latent_table import filtered
from lensbench.app.widgets.note_editor import note_editor, notes_files
from lensbench.app.widgets.states import guarded
from lensbench.app.workflows.latent_figures import density_code, density_figure
from lensbench.app.workflows.notes import with_notes


def show() -> None:
    """Draw the page."""
    st.title("Latent")
    left, middle, right = st.columns(3)
    chosen = choose_dictionary(left, middle)
    if chosen is None:
        return
    run, name = chosen
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
            about = {"run": run.relative_to(root()).as_posix(), "dictionary": name}
            query = urlencode({**about, "show": "Nearest latents", "latent": int(latent)})
            st.markdown(f"[Which latents point its way](directions?{query})")
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
        show_figure(density_figure(rows), key="density", frame=rows,
                    code=density_code(run, name, rows, len(table)),
                    alt=f"histogram of the firing frequency of {len(rows)} latents",
                    caption=f"n = {len(rows)} of {len(table)} latents; those that never fire have "
                    "no place on a logarithmic axis.")  # fmt: skip
    else:
        st.info("Densities and labels come with `lensbench eval sae`; until then: weights alone.")
        take_away(rows, key="latents")
