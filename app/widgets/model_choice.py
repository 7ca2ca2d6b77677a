"""Which model: one of the package, of this folder, or of a store here; each has one name."""

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.states import plain
from lensbench.app.workflows.live import hold_model
from lensbench.app.workflows.model_names import models_shown, name_in
from lensbench.app.workflows.unknown import unknown_told


def choose_model(*, key: str = "model", default: str | None = None) -> str | None:
    """What opens the chosen model, whose short name is part of the address; None until chosen."""
    known = models_shown(root(), [str(inside(name)) for name in store_names()])
    asked = st.session_state.get(key, st.query_params.get(key))
    if asked is not None and asked not in known and (short := name_in(root(), asked)) in known:
        st.query_params.pop(key, None)
        st.session_state[key] = short  # an older link, or another page, named its folder in full
    chosen = choose("Model", list(known), key=key, default=default)
    return None if chosen is None else known[chosen]


def opened(name: str, *texts: str) -> None:
    """Open a model that what follows needs, and say which words of the texts it does not know.

    Raises:
        MissingDataError, DamagedDataError: it cannot be opened.
    """
    with st.spinner("Opening the model"):
        hold_model(name)
    unknown_note(name, *texts)


def unknown_note(name: str, *texts: str) -> None:
    """Say which words of what was typed the open model of that name does not know."""
    if told := unknown_told(name, *texts):
        st.warning(plain(told))
