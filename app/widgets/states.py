"""What a page says when there is nothing yet, and when something went wrong."""

import logging
import re
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st
from streamlit.errors import FragmentHandledException

from lensbench import __version__
from lensbench.errors import (
    BudgetError,
    ConfigError,
    DamagedDataError,
    LensbenchError,
    MismatchError,
    MissingDataError,
    NonFiniteError,
    NotEnoughDataError,
    StoppedError,
)

KINDS: tuple[tuple[type[LensbenchError], str, str], ...] = (
    (MissingDataError, "Not found", ""),
    (DamagedDataError, "Damaged", "Nothing was changed; make it anew, or put back a copy."),
    (MismatchError, "Does not fit", ""),
    (NotEnoughDataError, "Too little data", ""),
    (NonFiniteError, "Not a number", ""),
    (BudgetError, "Over the limit", ""),
    (StoppedError, "Stopped", "What was finished is on disk."),
    (ConfigError, "Cannot be used", "Change what was chosen or typed above."),
)
"""What an error is called, and what to do where its own message need not say so."""
_log = logging.getLogger("lensbench.app")


def nothing_yet(what: str, command: str, *, next_step: str = "") -> None:
    """Say what is missing, what to do next here, and the same as a command."""
    st.info(what + (f" {next_step}" if next_step else ""))
    st.caption("On the command line:")
    st.code(command, language="bash", wrap_lines=True)


def no_store_yet(out: Path, text: str, *kept: str) -> None:
    """Say that there is no store, and how to make one of ``text`` at ``out``."""
    command = in_shell("capture", "--model", "atlas-dense", "--text", text, *kept, "--out", out)
    nothing_yet("No activation store in this folder yet.", command,
                next_step="Make one on the page Capture.")  # fmt: skip


def in_shell(*words: object) -> str:
    """A ``lensbench`` command whose names reach it as they are, whatever a shell reads in them."""
    return shlex.join(["lensbench", *map(str, words)])


def command_line(command: str, *, told: str = "The same on the command line:") -> None:
    """The command that does what this page does; where it is only near, ``told`` says what."""
    st.caption(told)
    st.code(command, language="bash", wrap_lines=True)


@contextmanager
def guarded() -> Generator[None]:
    """Show an error of lensbench in its own words instead of a traceback; the page goes on.

    Anything else is a bug of ours: it is called one, and told in full to the server's log.
    """
    try:
        yield
    except LensbenchError as error:
        error_card(error)
    except FragmentHandledException:  # shown where it happened
        raise
    except Exception as error:  # the outermost place: beyond it, a reader meets a bare traceback
        bug_card(error)


def error_card(error: LensbenchError) -> None:
    """What kind of error it is, its message, and what to do next."""
    title, advice = next(((t, a) for k, t, a in KINDS if isinstance(error, k)), ("Refused", ""))
    st.error(plain(f"{error}"), title=title)
    if advice:
        st.caption(advice)


def bug_card(error: Exception) -> None:
    """Say that this is our mistake, that nothing is lost, and what to send."""
    _log.error("a page met a bug", exc_info=error)
    st.error(
        "It is a mistake of lensbench, not one of yours. Runs, jobs and stores go on as they are; "
        "change the last choice, or reload the page.", title="This is a bug",
    )  # fmt: skip
    with st.expander("Details to report, with the address of this page and what you did"):
        st.text(f"lensbench {__version__}: {type(error).__name__}")
        st.exception(error)


LINKED = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)(?=\w)", re.IGNORECASE)
"""Where a bare address is cut, so that it is not made a link: that happens after escapes are read.

Tokens of a model are no links, and what one leads to was not written by whoever clicks.
"""
TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of what follows, so that a name shows as another one."""


def plain(text: str) -> str:
    """Text with nothing in it that Markdown would read, and nothing that turns or links it."""
    marked = TURNS.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    cut = LINKED.sub("\u2060", marked)  # a word joiner: seen by nobody
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-!<>$~|:" else c for c in cut)
