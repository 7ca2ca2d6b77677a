"""Going to another page, or to the same one at another address."""

from typing import Any, NoReturn

import streamlit as st

from lensbench.app.page_list import PAGES

HANDED = "handed-over"
"""Choices for the page that is opened, which Streamlit does not take as part of an address."""


def go_to(path: str, **query: str | list[str]) -> NoReturn:
    """Open the page ``path`` at ``?query``, as a link would; what was open is left.

    A name that a widget of this page is bound to (a store, on the way from one page of a store to
    another) cannot be put into an address from here; ``arrive`` gives it to the widget there.
    """
    page = next(page for page in PAGES if page.path == path)
    default = page is PAGES[0]
    target = st.Page(page.show, title=page.title, url_path=page.path, default=default)
    bound = {key: value for key, value in query.items() if key in st.session_state}
    st.session_state[HANDED] = {key: _like(st.session_state[key], value)
                                for key, value in bound.items()}  # fmt: skip
    st.switch_page(target, query_params={k: v for k, v in query.items() if k not in bound})
    raise AssertionError("switching a page does not return")


def arrive() -> None:
    """Set what ``go_to`` handed over, before any widget of the page exists."""
    for key, value in st.session_state.pop(HANDED, {}).items():
        st.session_state[key] = value


def _like(old: Any, new: str | list[str]) -> Any:
    """A value of an address as the widget of that name holds it."""
    value = new[0] if isinstance(new, list) and not isinstance(old, list | tuple) else new
    if isinstance(old, int) and isinstance(value, str) and value.isdecimal():
        return int(value)
    return value
