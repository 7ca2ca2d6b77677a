"""Which lens reads a text (the logit lens, one of the folder shown, another kind), and where."""

from collections.abc import Sequence

import streamlit as st

from lensbench.app.state import inside, lens_names
from lensbench.app.widgets.choose import not_here
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows.lenses import LensAsk
from lensbench.app.workflows.sequences import sequence_at

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
        # Two texts are read in the stream only. Set: a browser goes on showing what it had.
        st.session_state["lens"] = LOGIT
    name = pick_of("Lens (or the folder of a tuned one)", [LOGIT, *names], LOGIT, key="lens")
    return "" if name == LOGIT else str(inside(name))


def token_first(text: LensAsk, places: Sequence[int], *, key: str) -> int:
    """The token that a map marks at first: that of the row asked for.

    Of a typed text it is the last but one, which a token follows. Once another row is asked for,
    the widget ``key`` goes to that one's token.
    """
    if not text.store:
        return places[max(0, len(places) - 2)]
    here = sequence_at(text.store, text.row).position_of(text.row)
    seen, now = f"{key}-row", (text.store, text.row)
    if st.session_state.get(seen, now) != now and key in st.session_state:
        st.session_state[key] = here
    st.session_state[seen] = now
    return here
