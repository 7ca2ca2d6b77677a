"""What is around every page: room and colours, the folder that is shown, and help."""

import streamlit as st

from lensbench import __version__
from lensbench.app.page_list import Page
from lensbench.app.state import comes_from, root
from lensbench.app.widgets.states import plain
from lensbench.app.workflows.page_help import help_of

STYLE = """<style>
[data-testid=stMainBlockContainer] { padding-top: 3rem; padding-bottom: 3rem }
[data-testid=stCaptionContainer], [data-testid=stCaptionContainer] * {
  color: inherit; opacity: 1 }
[data-testid=stCaptionContainer] p { opacity: .78 }
[data-testid=stSidebar] [data-testid=stSidebarNavItems] { padding-top: 0 }
[data-testid=stCode] .token.keyword, [data-testid=stCode] .token.parameter,
[data-testid=stCode] .token.function, [data-testid=stCode] .token.builtin {
  color: light-dark(#0a5ca8, #7cc0ff) !important }
[data-testid=stCode] .token.string, [data-testid=stCode] .token.number,
[data-testid=stCode] .token.boolean { color: light-dark(#0b6b52, #6fd6b4) !important }
[data-testid=stCode] .token.comment { color: light-dark(#5d636b, #a4abb5) !important }
[data-testid=stBaseButton-primary] *, [data-testid=stMultiSelect] span[title] {
  color: light-dark(#fff, #08202e) !important }
:focus-visible { outline: 2px solid light-dark(#0072b2, #56b4e9) !important;
  outline-offset: 2px }
[data-testid=stPlotlyChart] .modebar-container { top: auto !important; bottom: 26px }
@media (max-width: 1000px) {
  [data-testid=stHorizontalBlock]:has([data-testid=stPlotlyChart], [data-testid=stMetric]) {
    flex-wrap: wrap }
  [data-testid=stHorizontalBlock] > [data-testid=stColumn]:has([data-testid=stPlotlyChart]) {
    min-width: 100% }
  [data-testid=stHorizontalBlock]:has(> [data-testid=stColumn]:nth-child(4))
    > [data-testid=stColumn]:has([data-testid=stMetric]) { min-width: 40% }
}
@media (max-width: 900px) {
  [data-testid=stMainBlockContainer] { padding-left: 1.25rem; padding-right: 1.25rem }
}
</style>"""
"""Streamlit's captions and code have a contrast of 3.9 on white, and its buttons 2.3 on our blue in
dark mode; below 4.5 words are hard to read. Plotly's tools would stand on the title of a narrow
figure, and of two figures side by side in a narrow window neither could be read.

Our own words alone: nothing that a model or a user wrote comes near it.
"""


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


def origins() -> None:
    """Under the page: the model, store and run that it shows, with their fingerprints."""
    told = "  \n".join(plain(line[0].upper() + line[1:]) for line in comes_from())
    if told:
        st.caption(told)
