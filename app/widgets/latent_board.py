"""What is known of one latent, part by part; only the part that is looked at is worked out."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import streamlit as st

from lensbench.app.cache import board, latent_table, tested
from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.latent_around import logits_part, related_part
from lensbench.app.widgets.latent_lines import show_line, text_line
from lensbench.app.widgets.latent_steer import steer_part, verify_part
from lensbench.app.widgets.latent_strips import show_strips
from lensbench.app.widgets.model_choice import unknown_note
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows.latent_code import contexts_code, histogram_code, text_code
from lensbench.app.workflows.latent_figures import histogram_figure
from lensbench.app.workflows.latent_page import (
    Passage,
    bands_of,
    context_frame,
    label_line,
    store_of,
)
from lensbench.app.workflows.sequences import name_of_model

FIRES, WRITES, RELATED, TEXT, STEER, VERIFY = (
    "fires", "writes", "related", "text", "steer", "verify")  # fmt: skip
PARTS = {
    FIRES: "Where it fires",
    WRITES: "What it writes",
    RELATED: "Related latents",
    TEXT: "On my text",
    STEER: "Steer with it",
    VERIFY: "Verify",
}
SAMPLE = "Alice the baker lives in Lima ."
"""A text to begin with."""


def latent_board(run: Path, name: str, latent: int) -> None:
    """Its numbers, and one part of what is known of it."""
    store = store_of(run, name, root())
    found, words = board(run, name, latent, store)
    i = found.index(latent)
    largest = float(found.max_activation[i])
    fires = f"fires on {100 * found.density[i]:.3f} % of {found.looked_at}"
    said = (
        f"**Latent {latent}** {plain(fires)}; largest activation **{largest:.4g}**."
        if largest
        else f"**Latent {latent}** never fires on {found.looked_at}."
    )
    st.markdown(said)
    of = store.relative_to(root()).as_posix()
    label = label_line(latent_table(run, name), latent)
    st.caption(plain(f"Site {found.site}; tokens of the store {of}. {label}"))
    part = one_of("About this latent", PARTS, key="part")
    with guarded():
        if part == FIRES:
            _fires(run, name, latent, store, found, words)
        elif part == WRITES:
            logits_part(run, name, latent, store, found, words)
        elif part == RELATED:
            related_part(run, name, latent, store)
        elif part == TEXT:
            _own_text(run, name, latent, store, largest)
        elif part == STEER:
            steer_part(run, name, latent, largest)
        else:
            verify_part(run, name, latent, store, found)
        if part in (FIRES, WRITES):
            show_line(run, name, latent, store)


def _fires(
    run: Path, name: str, latent: int, store: Path, found: Any, words: dict[int, str]
) -> None:
    if not found.max_activation[found.index(latent)]:
        st.info("A dead latent: no contexts. What it would write is under “What it writes”.")
        return
    left, right = st.columns([2, 1])
    with left:
        _contexts(run, name, found, latent, words, store)
    with right:
        figure, frame = histogram_figure(found, latent)
        show_figure(figure, key="histogram", frame=frame,
                    code=histogram_code(run, name, latent, store),
                    alt=f"histogram of the non-zero activations of latent {latent}",
                    caption=f"n = {int(np.asarray(frame['tokens']).sum()):,} of "
                    f"{found.looked_at}; zeros are left out.")  # fmt: skip


def _contexts(
    run: Path, name: str, found: Any, latent: int, words: dict[int, str], store: Path
) -> None:
    st.caption(
        f"Of {found.looked_at}: the strongest, then samples of each quarter of the rest. Look at "
        "the lower ones before naming a latent: the strongest alone flatter every story. Outlined: "
        "the token that fires; "
        "x2: twice the same words. Point at a token for its numbers; a number opens that token."
    )
    of = store.relative_to(root()).as_posix()

    def link(row: int) -> str:
        return f"token?{urlencode({'store': of, 'row': row})}"

    for band, contexts in bands_of(found, latent, words).items():
        st.markdown(f"**{band}** of the activations" if "%" in band else f"**{band}**")
        show_strips(contexts, link)
    take_away(context_frame(found, latent, words), key="contexts", alt=f"contexts of {latent}",
              code=contexts_code(run, name, latent, store))  # fmt: skip


def _own_text(run: Path, name: str, latent: int, store: Path, largest: float) -> None:
    text = st.text_area("Text", SAMPLE, key="text", bind="query-params", height=70, max_chars=2000)
    if not text:
        st.info("Type a text; the model is run once on it.")
        return
    frame = tested(run, name, latent, store, str(text))
    unknown_note(name_of_model(str(store)), str(text))
    show_strips([Passage(tuple(frame["token"]), tuple(frame["activation"]), None, largest)])
    top = float(np.asarray(frame["activation"]).max())
    share = f", {100 * top / largest:.0f} % of its largest stored one" if largest else ""
    said = f"Largest activation here: {top:.4g}{share}." if top else "It does not fire here."
    st.caption(f"{said} The model was run once on {len(frame)} tokens. Full colour: its largest "
               "activation of the stored tokens looked at.")  # fmt: skip
    code = text_code(run, name, store, str(text), f".of({latent})")
    take_away(frame, key="own-text", code=code, alt=f"latent {latent} on a text")
    text_line(run, name, latent, str(text), store)
