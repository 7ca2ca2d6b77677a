"""Going to another page, or to the same one at another address."""

from typing import NoReturn

import streamlit as st

from lensbench.app.page_list import PAGES


def go_to(path: str, **query: str) -> NoReturn:
    """Open the page ``path`` at ``?query``, as a link would; what was open is left."""
    page = next(page for page in PAGES if page.path == path)
    default = page is PAGES[0]
    target = st.Page(page.show, title=page.title, url_path=page.path, default=default)
    st.switch_page(target, query_params=query)
    raise AssertionError("switching a page does not return")
