"""Selectors whose value is part of the address, so that a link shows what its sender saw."""

from collections.abc import Sequence

import streamlit as st


def choose(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    placeholder: str = "",
    default: str | None = None,
) -> str | None:
    """One of ``options``, kept in the address as ``?key=...``; None until something is chosen.

    There is no default on purpose for runs and stores: the address leaves a default out, so a link
    to "the newest run" would show another one tomorrow. Give ``default`` only where the options do
    not change. A name in the address that is not there is said, not dropped.
    """
    wanted = st.query_params.get(key)
    if wanted is not None and wanted not in options:
        st.warning(f"There is no {label.lower()} {wanted!r} here (any more). Choose another one.")
    return st.selectbox(
        label,
        list(options),
        index=None if default is None else list(options).index(default),
        key=key,
        placeholder=placeholder or f"Choose a {label.lower()}",
        bind="query-params",
    )


def several(
    label: str, options: Sequence[str], default: Sequence[str], *, key: str, empty: str
) -> tuple[str, ...]:
    """Any of ``options``, part of the address; ``empty`` says what choosing none means."""
    asked = st.session_state.get(key)
    if asked is not None and not set(asked) <= set(options):
        del st.session_state[key]  # chosen for another text
    return tuple(st.multiselect(label, options, default=list(default), key=key, placeholder=empty,
                                bind="query-params"))  # fmt: skip
