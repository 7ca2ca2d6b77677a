"""What is around every page: room and colours, the folder that is shown, and help."""

import streamlit as st

from lensbench import __version__
from lensbench.app.page_list import Page
from lensbench.app.state import root
from lensbench.app.widgets.states import plain
from lensbench.app.workflows.page_help import help_of

STYLE = """<style>
[data-testid=stMainBlockContainer] { padding-top: 3rem; padding-bottom: 3rem }
[data-testid=stSidebarNav] ul { gap: 0 }
@media (max-width: 900px) {
  [data-testid=stMainBlockContainer] { padding-left: 1.25rem; padding-right: 1.25rem }
}
:focus-visible { outline: 2px solid var(--st-primary-color, #0072b2) !important;
  outline-offset: 2px }
</style>"""
"""Our own words alone: nothing that a model or a user wrote comes near it."""


def dress() -> None:
    """Less empty room, and a ring around whatever the keyboard has reached."""
    st.html(STYLE)


def footer(page: Page) -> None:
    """What the page does, which folder is shown, and by which version."""
    about = st.popover("About this page", key="about", on_change="rerun", width="stretch")
    if about.open:
        with about:
            told = help_of(page.path, page.verb, page.methods)
            st.markdown(plain(told.purpose))
            if told.verbs:
                st.caption("On the command line, with examples:")
                st.code("\n".join(f"lensbench {verb} --help" for verb in told.verbs), "bash")
            if told.methods:
                st.caption("What is computed (docs/methods.md):")
                with st.container(height=360):
                    st.markdown(told.methods)
            elif page.methods:
                st.caption(f"What is computed: docs/methods.md, “{page.methods}”")
    st.caption(plain(f"lensbench {__version__} · folder shown: {root()}"))
