"""Which lens reads a text: the logit lens, one that lies in the folder shown, or another kind."""

import streamlit as st

from lensbench.app.state import inside, lens_names
from lensbench.app.widgets.choose import not_here
from lensbench.app.widgets.toggle import pick_of

LOGIT = "Logit lens"
SITE, PARTS, DECODER = "Site lens", "Component lens", "Decoder lens"
KINDS = (LOGIT, SITE, PARTS, DECODER)


def choose_kind(default: str = LOGIT) -> str:
    """One of ``KINDS``, or the name of a tuned lens of the folder shown."""
    names = [*KINDS, *(n for n in lens_names() if n not in KINDS)]
    return pick_of("Lens (or the folder of a tuned one)", names, default, key="lens")


def folder_of(kind: str) -> str:
    """Folder of a tuned lens; empty for the logit lens.

    Raises:
        MissingDataError: the lens was deleted while its page was open.
    """
    return "" if kind in KINDS else str(inside(kind))


def choose_lens() -> str:
    """Folder of a tuned lens, empty for the logit lens; no widget where there is none to choose.

    Raises:
        MissingDataError: the lens was deleted while its page was open.
    """
    names = lens_names()
    if not names:
        asked = st.query_params.get("lens")
        if asked and asked not in KINDS:
            not_here("Lens", asked)
        return ""
    if st.session_state.get("lens") in KINDS[1:]:
        del st.session_state["lens"]  # two texts are read in the stream only
    name = pick_of("Lens (or the folder of a tuned one)", [LOGIT, *names], LOGIT, key="lens")
    return "" if name == LOGIT else str(inside(name))
