"""What a store holds, in numbers that grow by themselves while it is written."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.states import guarded
from lensbench.app.workflows.growing import Growth, growth_of

EVERY = 2.0
"""Seconds between two looks at a store that grows."""


def store_facts(folder: Path) -> None:
    """Draw counts and provenance; while somebody writes the store, look again by itself."""
    live = growth_of(root(), folder).live
    st.fragment(_look, run_every=EVERY if live else None)(folder, live)


def _look(folder: Path, was_live: bool) -> None:
    with guarded():
        growth = growth_of(root(), folder)
        if was_live and not growth.live:
            st.rerun()  # the whole page: rows and shards below are those of the whole store
        _draw(growth)


def _draw(growth: Growth) -> None:
    info = growth.info
    for column, fact in zip(st.columns(3), ("tokens", "documents", "shards"), strict=True):
        column.metric(fact, f"{info[fact]:,}", border=True)
    if growth.live:
        st.progress(growth.share, growth.told)
        st.caption("What is below is as it was when the page was opened; reload it for more.")
    st.text(
        f"model {info['model']} ({info['fingerprint']})  ·  text {info['text']}  ·  "
        f"layout {info['layout']}  ·  {info['dtype']}  ·  {info['bytes'] / 2**20:,.1f} MiB  ·  "
        + ("growing" if growth.live else growth.told)
    )
