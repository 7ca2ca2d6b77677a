"""The page Sweep."""

import streamlit as st


def show() -> None:
    """Draw the page."""
    st.title("Sweep")
