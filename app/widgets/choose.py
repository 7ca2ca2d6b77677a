"""Selectors whose value is part of the address, so that a link shows what its sender saw."""

from collections.abc import Sequence

import streamlit as st

from lensbench.app.widgets.states import plain


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
        not_here(label, wanted)
    return st.selectbox(
        label,
        list(options),
        index=None if default is None else list(options).index(default),
        key=key,
        placeholder=placeholder or f"Choose a {label.lower()}",
        bind="query-params",
    )


def not_here(label: str, wanted: str) -> None:
    """Say that the address asks for something that is none of the options."""
    told = f"There is no {label.lower()} {wanted!r} here (any more). Choose another one."
    st.warning(plain(told))


def several(
    label: str, options: Sequence[str], default: Sequence[str], *, key: str, empty: str
) -> tuple[str, ...]:
    """Any of ``options``, part of the address; ``empty`` says what choosing none means."""
    asked = st.session_state.get(key)
    if asked is not None and not set(asked) <= set(options):
        del st.session_state[key]  # chosen for another text
    if key not in st.session_state:
        for wanted in set(st.query_params.get_all(key)) - set(options) - {""}:
            not_here(label, wanted)
    return tuple(st.multiselect(label, options, default=list(default), key=key, placeholder=empty,
                                bind="query-params"))  # fmt: skip
