"""The page Stores."""

import streamlit as st


def show() -> None:
    """Draw the page."""
    st.title("Stores")
