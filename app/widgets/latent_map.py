"""The map of a dictionary, and how near its directions lie to one another."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from lensbench.app.cache import decoder_geometry, decoder_map, facts_of, tokens_written
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, in_shell, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import geometry as pictures
from lensbench.app.workflows.copying import python_of

LAYOUTS = {"pca": "PCA", "umap": "UMAP"}
WORDS = {
    "density": st.column_config.NumberColumn(format="%.5f"),
    "nearest_cosine": st.column_config.NumberColumn("cosine", format="%.3f"),
    "encoder_cosine": st.column_config.NumberColumn("its encoder, cosine", format="%.3f"),
    "cosine": st.column_config.NumberColumn(format="%.3f"),
    "label": st.column_config.TextColumn(width="medium"),
}
"""How columns are headed."""


def open_latent(latent: int, *, key: str, picked: object) -> None:
    """Open a latent below, if it was clicked just now; a selection stays when a page is redrawn."""
    if st.session_state.get(f"seen-{key}") != picked:
        st.session_state[f"seen-{key}"] = picked
        st.session_state["to-open"] = latent
        st.rerun()


def latent_map(run: Path, name: str) -> None:
    """Every latent as a point; a click opens it."""
    facts = facts_of(run, name)
    known = {c: title for c, title in pictures.COLOURS.items() if c in facts}
    left, right = st.columns(2)
    with left:
        color = pick_of("Colour by", list(known), next(iter(known)), key="colour", shown=known)
    with right:
        method = one_of("Layout", LAYOUTS, key="layout")
    if method == "umap" and not pictures.has_umap():
        st.info("UMAP needs the package umap-learn, which is not installed; the map below is PCA.")
        st.code(pictures.INSTALL, language="bash", wrap_lines=True)
        method = "pca"
    ring = st.session_state.get("open")
    whole: Any = decoder_map(run, name, "umap" if method == "umap" else "pca")
    places = pictures.thinned(whole, facts, ring)
    why = tokens_written(run, name)[1]
    lost = int(len(facts) - whole.summary()["latents"])
    drawn = places.summary()["latents"]
    told = [
        f"n = {len(facts) - lost:,} latents, decoder rows at length 1; a click opens one.",
        f"Drawn are {drawn:,.0f} of them: what is labelled or starred, and a random sample."
        if drawn < len(facts) - lost
        else "",
        f"{lost:,} rows of zeros have no place." if lost else "",
        _believe(places),
        f"({why}.)" if why else "",
    ]
    figure = pictures.map_figure(places, facts, color, ring=ring)
    frame = places.to_frame().dropna(subset=["x"]).merge(facts, on="latent")
    clicked = show_figure(figure, key=f"map-{method}-{color}", pick=True, frame=frame,
                          file=f"map-{method}", code=pictures.map_code(run, name, method, color),
                          alt=f"map of {len(facts)} latents coloured by {color}",
                          caption=plain(" ".join(t for t in told if t)))  # fmt: skip
    if color in ("my label", "starred") and len(set(facts[color])) == 1:
        st.info("Nothing is said of these latents yet; label and star them on the page Latents.")
    command_line(in_shell("latents", "map", run / name, "--method", method, "--html", "map.html"))
    if clicked:
        open_latent(int(clicked[-1]), key="map", picked=(str(run), name, clicked[-1]))


def _believe(places: Any) -> str:
    """How far the distances on a map can be trusted."""
    chance = next(iter(places.controls.values.values()))
    return (
        f"Of a latent's ten nearest by cosine, {100 * places.neighbours_kept:.0f} % are among its "
        f"ten nearest here (places at random: {100 * chance:.0f} %): distances on it are hints."
    )


def geometry_board(run: Path, name: str) -> None:
    """Histograms of cosines beside their controls, and the latents that are most alike."""
    found: Any = decoder_geometry(run, name)
    facts = facts_of(run, name)
    said = found.summary()
    one, two, three = st.columns(3)
    random = found.controls.values["random direction, nearest cosine, median"]
    one.metric("nearest other latent, median cosine", f"{said['nearest cosine, median']:.3f}",
               f"random directions {random:.3f}", delta_color="off", delta_arrow="off",
               border=True)  # fmt: skip
    two.metric("latents with a near copy (cosine > 0.9)", f"{100 * said['share above 0.9']:.1f} %",
               border=True)  # fmt: skip
    other = found.controls.values.get("encoder of another latent, median", float("nan"))
    three.metric("encoder against decoder, median cosine",
                 _number(said["encoder-decoder cosine, median"]), f"two latents {_number(other)}",
                 delta_color="off", delta_arrow="off", border=True)  # fmt: skip
    left, right = st.columns(2)
    with left:
        show_figure(found.plot(), key="nearest-cosine", frame=found.nearest_frame(),
                    alt="histogram of the largest cosine with another decoder row",
                    code=pictures.geometry_code(run, name),
                    caption=f"n = {len(found.latents):,} latents. Control: as many random "
                    "directions at the same d_model and d_sae.")  # fmt: skip
    with right:
        if other == other:
            show_figure(found.plot_encoder(), key="encoder-cosine", frame=found.encoder_frame(),
                        alt="histogram of the cosine of encoder and decoder",
                        code=pictures.geometry_code(run, name, "plot_encoder()"),
                        caption=f"n = {len(found.latents):,} latents. Control: the encoder column "
                        "of another latent.")  # fmt: skip
        else:
            st.info("No encoder columns to compare with decoder rows: this dictionary has none, "
                    "or it reads another site than it writes.")  # fmt: skip
    _alike(run, name, pictures.alike(found, facts))


def _alike(run: Path, name: str, frame: pd.DataFrame) -> None:
    st.header("Most alike")
    st.caption("Pairs with the largest cosine of decoder rows. Click a row to open its latent.")
    clickable_rows(run, name, frame, key="alike", alt="pairs of latents that are most alike")
    code = python_of(pictures.most_alike, run, name)
    take_away(frame, key="alike", alt="pairs of latents that are most alike", code=code)
    command_line(in_shell("latents", "geometry", run / name))


def clickable_rows(run: Path, name: str, frame: pd.DataFrame, *, key: str, alt: str) -> None:
    """A table of latents whose rows open them."""
    picked = show_listing(frame, pick=f"{key}-rows", alt=alt, config=WORDS)
    if picked is not None:
        latent = int(frame["latent"].iloc[picked])
        open_latent(latent, key=key, picked=(str(run), name, latent))


def _number(value: float) -> str:
    return "not known" if value != value else f"{value:.3f}"
