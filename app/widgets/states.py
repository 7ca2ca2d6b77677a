"""What a page says when there is nothing yet, and when something went wrong."""

from collections.abc import Generator
from contextlib import contextmanager

import streamlit as st

from lensbench.errors import LensbenchError


def nothing_yet(what: str, command: str, *, next_step: str = "") -> None:
    """Say what is missing, what to do next here, and the same as a command."""
    st.info(what + (f" {next_step}" if next_step else ""))
    st.caption("On the command line:")
    st.code(command, language="bash", wrap_lines=True)


def command_line(command: str) -> None:
    """The command that does what this page does."""
    st.caption("The same on the command line:")
    st.code(command, language="bash", wrap_lines=True)


@contextmanager
def guarded() -> Generator[None]:
    """Show an error of lensbench in its own words instead of a traceback; the page goes on."""
    try:
        yield
    except LensbenchError as error:
        st.error(plain(str(error)))


def plain(text: str) -> str:
    """Text with nothing in it that Markdown would read."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-!<>$~|:" else c for c in text)
