"""Streamlit entry point: ``lensbench app`` runs this file. The pages are in ``page_list``."""

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from lensbench.app.page_list import PAGES
from lensbench.app.widgets.links import arrive
from lensbench.app.widgets.shell import dress, footer, origins
from lensbench.app.widgets.states import guarded


def main() -> None:
    """The menu, and the page that the address names."""
    st.set_page_config(page_title="lensbench", page_icon="🔬", layout="wide")
    menu: dict[str, list[StreamlitPage]] = {}
    for page in PAGES:
        shown = st.Page(page.show, title=page.title, url_path=page.path, default=page is PAGES[0])
        menu.setdefault(page.section, []).append(shown)
    dress()
    chosen = st.navigation(menu, expanded=True)
    st.set_page_config(page_title=f"{chosen.title} · lensbench")  # tells two tabs apart
    with st.sidebar:
        footer(next(page for page in PAGES if page.title == chosen.title))
    arrive()
    with guarded():
        chosen.run()
        origins()


if __name__ == "__main__":
    main()
