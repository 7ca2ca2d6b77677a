"""Selectors whose value is part of the address, so that a link shows what its sender saw."""

from collections.abc import Mapping, Sequence

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
    label: str,
    options: Sequence[str],
    default: Sequence[str],
    *,
    key: str,
    empty: str,
    shown: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Any of ``options``, part of the address; ``empty`` says what choosing none means.

    The reader and the address have ``shown`` of an option where it is given; an address with the
    options' own names is understood too.
    """
    asked = st.session_state.get(key)
    if asked is not None and not set(asked) <= set(options):
        # Chosen for another text. Set, not deleted: a browser goes on showing what it had.
        st.session_state[key] = list(default)
    words = {name: (shown or {}).get(name, name) for name in options}
    if key not in st.session_state:
        in_words(key, words)
        for name in set(st.query_params.get_all(key)) - set(words.values()) - {""}:
            not_here(label, name)
    return tuple(st.multiselect(label, options, default=list(default), key=key, placeholder=empty,
                                format_func=words.__getitem__, bind="query-params"))  # fmt: skip


def in_words(key: str, words: Mapping[str, str]) -> None:
    """Write an address anew that has names where the widget ``key`` has ``words`` for them.

    Streamlit knows a choice by what the reader sees of it, and drops any other from the address.
    """
    asked = st.query_params.get_all(key)
    told = [words.get(name, name) if name not in words.values() else name for name in asked]
    if told != asked:
        st.query_params[key] = told
        st.rerun()
