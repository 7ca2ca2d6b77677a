"""The page Token: all that is known of one stored token, and a check beside each read-out."""

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.shell_lines import token_line
from lensbench.app.widgets.states import command_line, plain
from lensbench.app.widgets.strip import token_strip
from lensbench.app.widgets.text_source import choose_row
from lensbench.app.widgets.token_cells import exit_depth, experts, latents, lens
from lensbench.app.widgets.token_readouts import hyper, probes
from lensbench.app.workflows.token_page import TokenFacts, token_facts
from lensbench.plots import visible


def show() -> None:
    """Draw the page."""
    st.title("Token")
    st.caption("Click a token. Everything below is read from the store, without running the model; "
               "each cell can be checked by one run.")  # fmt: skip
    source = choose_row(token_line)
    if source is None:
        return
    with st.spinner("Reading the store, and opening its model for the words of the tokens"):
        facts = token_facts(source.store, source.row)
    _sequence(facts)
    _head(facts)
    left, right = st.columns([3, 2])
    with left:
        lens(source.store, source.row)
    with right:
        exit_depth(source.store, source.row)
    latents(root(), source.store, source.row)
    probes(root(), source.store, source.row)
    hyper(root(), source.store, source.row)
    experts(source.store, source.row)
    command_line(token_line(source))


def _sequence(facts: TokenFacts) -> None:
    rows = facts.sequence.rows.tolist()

    def pick(token: int) -> None:
        st.session_state["row"] = rows[token]

    token_strip(facts.sequence.words, [r >= 0 for r in rows], facts.position, pick,
                key="strip", label="Tokens of the sequence; the chosen one is filled")  # fmt: skip


def _head(facts: TokenFacts) -> None:
    shown = st.columns(4)
    shown[0].metric("Token", plain(visible(facts.token)))
    followed = plain(visible(facts.target)) if facts.target else "end of sequence"
    shown[1].metric("Followed by", followed)
    shown[2].metric("Position", facts.position)
    shown[3].metric("Document", facts.document)
    st.caption(plain(" · ".join(f"{k}: {v}" for k, v in facts.facts.items())))
