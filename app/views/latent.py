"""The page Latent."""

import streamlit as st


def show() -> None:
    """Draw the page."""
    st.title("Latent")
