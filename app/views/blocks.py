"""Blocks of a report as Streamlit elements."""

from html import escape

import streamlit as st

from lensbench.app.report import Block, Cards, Figure, Latent, Pair, Section, Table, Text
from lensbench.plots import CONFIG, token_strip
from lensbench.plots.tokens import CSS


def show_section(section: Section) -> None:
    """A headed part of the page."""
    st.subheader(section.title)
    if section.lead:
        st.caption(section.lead)
    for index, block in enumerate(section.blocks):
        _show(block, f"{section.title}/{index}")


def _show(block: Block, key: str) -> None:
    if isinstance(block, Pair):
        for column, inner, i in zip(
            st.columns(len(block.blocks)), block.blocks, "abcdef", strict=False
        ):
            with column:
                _show(inner, f"{key}{i}")
    elif isinstance(block, Figure):
        st.plotly_chart(block.figure, key=key, config=CONFIG)
        st.caption(block.caption)
    elif isinstance(block, Table):
        st.dataframe(block.frame, hide_index=True)
        st.caption(block.caption)
    elif isinstance(block, Text):
        st.code(block.text, language=None) if block.code else st.text(block.text)
    elif isinstance(block, Cards):
        for column, (value, what) in zip(st.columns(len(block.items)), block.items, strict=True):
            column.metric(what, value)
    elif isinstance(block, Latent):
        _latent(block)


def _latent(block: Latent) -> None:
    with st.expander(block.heading):
        st.caption(block.facts)
        largest = max((max(c.values) for c in block.contexts), default=0.0)
        strips = [
            f"<p>{escape(f'{c.values[c.focus]:.3g}')} "
            f"{token_strip(c.tokens, c.values, largest=largest, focus=c.focus)}</p>"
            for c in block.contexts
        ]
        st.html(f"<style>{CSS}</style>{''.join(strips)}")  # token_strip escapes every token
