"""The pages of the dashboard, in the order of the menu. To add a page, add one line here.

A page is a module ``app/views/<path>.py`` (at most 80 lines) with one function ``show() -> None``.
It draws, and nothing else: it imports no torch, no transformers and no method package; whatever
computes lies in ``app/workflows``. What every page can use:

- ``app.state``: ``root()`` (the folder shown), ``inside(name)`` (a folder below it, or an error),
  ``mode()`` ("light" or "dark"), ``run_names()`` and ``store_names()`` (options of selectors);
- ``app.workflows.live.running(name)``: a model with its lock, for everything that runs it; cache
  results by small keys (names, token ids), never by arrays;
- ``app.widgets.choose.choose``: a selector that is part of the address (``?run=...``);
- ``app.widgets.states``: ``nothing_yet(what, command)``, ``guarded()`` for errors in words;
- ``app.widgets.figures.show_figure``: a figure with caption, alt text, downloads and its code.

An uncaught ``LensbenchError`` of a page is shown in its own words; anything else is a bug.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Page:
    """A line of the menu: the last part of the address, what the menu says, and under what."""

    path: str
    title: str
    section: str

    def show(self) -> None:
        """Draw the page; its module is read when it is first opened."""
        import streamlit as st

        st.session_state["page-shown"] = self.path  # files and notebooks are named after it
        draw: Callable[[], None] = import_module(f"lensbench.app.views.{self.path}").show
        draw()


PAGES = (
    Page("home", "Home", ""),
    Page("capture", "Capture", "Data"),
    Page("stores", "Stores", "Data"),
    Page("token", "Token", "Data"),
    Page("train", "Train", "Dictionaries"),
    Page("runs", "Runs", "Dictionaries"),
    Page("sweep", "Sweep", "Dictionaries"),
    Page("compare", "Compare", "Dictionaries"),
    Page("latent", "Latent", "Dictionaries"),
    Page("directions", "Directions", "Dictionaries"),
    Page("lens", "Lens", "Reading"),
    Page("attention", "Attention", "Reading"),
    Page("probe", "Probe", "Reading"),
    Page("hyper", "Hyperdimensional", "Reading"),
    Page("geometry", "Geometry", "Reading"),
    Page("patching", "Patching", "Intervening"),
    Page("steering", "Steering", "Intervening"),
    Page("experts", "Experts", "Intervening"),
    Page("acceleration", "Acceleration", "Intervening"),
)
"""All pages by section; the first one is opened where the address names none."""
