"""The page Lens: what every layer would predict at every token of one text, or of two."""

import streamlit as st

from lensbench.app.widgets.lens_cell import leave
from lensbench.app.widgets.lens_choice import (
    DECODER,
    LOGIT,
    PARTS,
    SITE,
    choose_kind,
    folder_of,
)
from lensbench.app.widgets.lens_decoder import show_decoder
from lensbench.app.widgets.lens_map import show_map
from lensbench.app.widgets.lens_note import lens_note
from lensbench.app.widgets.lens_pair import show_pair
from lensbench.app.widgets.lens_places import show_places
from lensbench.app.widgets.model_choice import opened
from lensbench.app.widgets.shell_lines import lens_line
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.text_source import STORED, TYPED, Source, choose_source
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows.lens_decoder import is_encoder_decoder
from lensbench.app.workflows.lenses import LensAsk


def show() -> None:
    """Draw the page."""
    leave()
    st.title("Lens")
    st.caption("What each layer would predict if it were the last. Click a cell to follow it.")
    view = {"one": "One text", "pair": "Two texts"}
    if one_of("Look at", view, key="view") == "pair":
        show_pair()
        return
    source = choose_source(STORED, TYPED, command=lens_line)
    if source is None:
        return
    with guarded():
        if source.model:
            opened(source.model, source.text)
        two = bool(source.model) and is_encoder_decoder(source.model)
        kind = choose_kind(DECODER if two else LOGIT)
        if kind == DECODER or two:
            _decoder(source, kind, two=two)
            return
        lens = folder_of(kind)
        ask = LensAsk(store=source.store, row=source.row, model=source.model, text=source.text,
                      lens=lens)  # fmt: skip
        if kind in (SITE, PARTS):
            show_places(ask, kind)
        elif lens_note(ask):
            show_map(ask)
        if line := lens_line(source, kind, lens):
            command_line(line)


def _decoder(source: Source, kind: str, *, two: bool) -> None:
    """The decoder lens, or why this lens and this model do not fit each other."""
    if two and kind == DECODER:
        show_decoder(source.model, source.text)
        command_line(lens_line(source, kind))
        return
    if two:
        told = (f"{source.model} has an encoder and a decoder; “{kind}” reads models with one "
                "stack. The decoder lens reads this one.")  # fmt: skip
        change, label = DECODER, "Read it with the decoder lens"
    else:
        named = source.model or "a stored sequence"
        told = ("The decoder lens hands states of an encoder to a decoder. It reads typed text of "
                f"an encoder-decoder, such as atlas-translate, and not {named}.")  # fmt: skip
        change, label = LOGIT, "Read it with the logit lens"
    st.info(plain(told))

    def switch() -> None:
        st.session_state["lens"] = change

    st.button(label, key="fitting", on_click=switch)
