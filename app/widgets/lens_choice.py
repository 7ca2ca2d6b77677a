"""Which lens reads the layers: the logit lens, or a tuned one that lies in the folder shown."""

import streamlit as st

from lensbench.app.state import inside, lens_names
from lensbench.app.widgets.choose import not_here
from lensbench.app.widgets.toggle import pick_of

LOGIT = "Logit lens"


def choose_lens() -> str:
    """Folder of a tuned lens, empty for the logit lens; no widget where there is none to choose.

    Raises:
        MissingDataError: the lens was deleted while its page was open.
    """
    names = lens_names()
    if not names:
        if asked := st.query_params.get("lens"):
            not_here("Lens", asked)
        return ""
    name = pick_of("Lens (or the folder of a tuned one)", [LOGIT, *names], LOGIT, key="lens")
    return "" if name == LOGIT else str(inside(name))
