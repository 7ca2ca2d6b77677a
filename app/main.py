"""Streamlit entry point: ``lensbench app`` runs this file. The pages are in ``page_list``."""

import streamlit as st

from lensbench.app.page_list import PAGES
from lensbench.app.state import root
from lensbench.app.widgets.states import guarded


def main() -> None:
    """The menu, and the page that the address names."""
    st.set_page_config(page_title="lensbench", page_icon="🔬", layout="wide")
    pages = [
        st.Page(page.show, title=page.title, url_path=page.path, default=i == 0)
        for i, page in enumerate(PAGES)
    ]
    st.html("<style>[data-testid=stMainBlockContainer]{padding-top:3rem}</style>")
    chosen = st.navigation(pages)
    st.sidebar.caption(f"Folder shown: {root()}")
    with guarded():
        chosen.run()


if __name__ == "__main__":
    main()
