"""Contexts of a latent as lines of shaded tokens."""

from collections.abc import Callable, Sequence
from html import escape

import streamlit as st

from lensbench import plots
from lensbench.app.workflows.latent_page import Passage
from lensbench.plots.tokens import CSS

LINE = """
.lb-line{display:flex;gap:12px}
.lb-line a{color:inherit}
.lb-times{white-space:nowrap;opacity:.75;font-size:13px;line-height:1.9}
.lb-value{min-width:4ch;text-align:right;opacity:.75;font-size:13px;line-height:1.9}
"""


def show_strips(passages: Sequence[Passage], link: Callable[[int], str] | None = None) -> None:
    """Tokens shaded by activation, one passage a line; ``link`` gives the address of a row."""
    st.html(f"<style>{CSS}{LINE}</style>{lines_of(passages, link)}")


def lines_of(passages: Sequence[Passage], link: Callable[[int], str] | None = None) -> str:
    """HTML of the passages; ``token_strip`` makes every token inert."""
    return "".join(
        f"<div class=lb-line><span class=lb-value>{_at_focus(p, link)}</span>"
        f"{plots.token_strip(p.words, p.values, largest=p.largest, focus=p.focus, notes=p.notes)}"
        f"{_times(p)}</div>"
        for p in passages
    )


def _times(passage: Passage) -> str:
    return f"<span class=lb-times>x{passage.times}</span>" if passage.times > 1 else ""


def _at_focus(passage: Passage, link: Callable[[int], str] | None) -> str:
    if passage.focus is None:
        return ""
    value = escape(f"{passage.values[passage.focus]:.3g}")
    if link is None or passage.row < 0:
        return value
    return f'<a href="{escape(link(passage.row), quote=True)}" target="_self">{value}</a>'
