"""One of a few things, side by side, as part of the address."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import streamlit as st

from lensbench.app.widgets.choose import in_words, not_here

T = TypeVar("T")


def one_of(label: str, options: Mapping[str, str], *, key: str) -> str:
    """One key of ``options`` (the first at first); the reader sees their values."""
    names = list(options)
    if key not in st.session_state:
        in_words(key, options)
    shown = st.radio(label, names, format_func=lambda name: options[name], key=key,
                     horizontal=True, bind="query-params")  # fmt: skip
    return shown or names[0]


def pick_of(
    label: str,
    options: Sequence[T],
    default: T,
    *,
    key: str,
    shown: Mapping[T, str] | None = None,
) -> T:
    """One of many, in a list; what the address or a click has set stays while it is among them.

    The reader sees ``shown`` of an option, where it is given.
    """
    if key in st.session_state and st.session_state[key] not in options:
        # Chosen for another text. Set, not deleted: a browser goes on showing what it had.
        st.session_state[key] = default
    shows = {str(option) for option in options} | {shown[o] for o in options if shown}
    asked = st.query_params.get(key)
    if asked is not None and key not in st.session_state:
        in_words(key, {str(option): told for option, told in (shown or {}).items()})
        if asked not in shows:
            not_here(label, asked)
    index = list(options).index(default)
    chosen = st.selectbox(
        label, options, index=index, key=key, bind="query-params",
        format_func=lambda option: str(option) if shown is None else shown[option],
    )  # fmt: skip
    return default if chosen is None else chosen
