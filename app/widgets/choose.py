"""Selectors whose value is part of the address, so that a link shows what its sender saw."""

from collections.abc import Mapping, Sequence
from typing import Any

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
        del st.session_state[key]  # chosen for another text
    given: dict[str, Any] = {"default": list(default)}
    if key not in st.session_state:
        wanted = st.query_params.get_all(key)
        told = {name: name for name in options} | {t: name for name, t in (shown or {}).items()}
        for name in set(wanted) - set(told) - {""}:
            not_here(label, name)
        if shown and set(wanted) & set(options):
            st.session_state[key], given = [told[name] for name in wanted if name in told], {}
    words = {**{name: name for name in options}, **(shown or {})}
    return tuple(st.multiselect(label, options, key=key, placeholder=empty, bind="query-params",
                                format_func=lambda one: words[one], **given))  # fmt: skip
