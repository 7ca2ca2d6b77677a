"""One of a few things, side by side, as part of the address."""

from collections.abc import Mapping

import streamlit as st


def one_of(label: str, options: Mapping[str, str], *, key: str) -> str:
    """One key of ``options`` (the first at first); the reader sees their values."""
    names = list(options)
    shown = st.radio(label, names, format_func=lambda name: options[name], key=key,
                     horizontal=True, bind="query-params")  # fmt: skip
    return shown or names[0]
