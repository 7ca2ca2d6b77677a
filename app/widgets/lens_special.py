"""The toggle that leaves special tokens out of a map."""

from collections.abc import Sequence

import streamlit as st


def special_toggle(found: Sequence[int]) -> bool:
    """Whether special tokens are left out; no widget where a text has none."""
    if not found:
        return False
    told = "Tokens such as BOS, that the tokenizer adds: their cells are often the most extreme"
    return st.toggle("Leave out special tokens", key="grey", bind="query-params", help=told)
