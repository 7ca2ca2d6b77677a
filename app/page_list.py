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
    verb: str = ""
    """Commands that do the same, parted by commas."""
    methods: str = ""
    """How the section of docs/methods.md that says what is computed begins."""

    def show(self) -> None:
        """Draw the page; its module is read when it is first opened."""
        import streamlit as st

        st.session_state["page-shown"] = self.path  # files and notebooks are named after it
        draw: Callable[[], None] = import_module(f"lensbench.app.views.{self.path}").show
        draw()


PAGES = (
    Page("home", "Home", "", "demo, doctor"),
    Page("capture", "Capture", "Data", "capture", "Capture and the store"),
    Page("stores", "Stores", "Data", "store info, store verify", "Capture and the store"),
    Page("token", "Token", "Data", "store sample, lens text", "The Token page and its checks"),
    Page("train", "Train", "Dictionaries", "train sae", "Training dictionaries"),
    Page("runs", "Runs", "Dictionaries", "runs ls, runs show", "Training dictionaries"),
    Page("sweep", "Sweep", "Dictionaries", "eval sae, report", "Evaluating dictionaries"),
    Page("compare", "Compare", "Dictionaries", "runs diff", "Evaluating dictionaries"),
    Page(
        "latent", "Latents", "Dictionaries", "latents, encode, explain", "Evaluating dictionaries"
    ),
    Page("directions", "Directions", "Dictionaries", "latents", "Maps, geometry and directions"),
    Page("lens", "Lens", "Reading", "lens layers, lens text, lens pair, lens tune", "Lenses"),
    Page("ask", "Ask a state", "Reading", "lens ask, lens future", "Lenses"),
    Page("language", "Latent language", "Reading", "lens language", "Lenses"),
    Page("attention", "Attention", "Reading", "heads scores, heads logits", "The Attention page"),
    Page("probe", "Probe", "Reading", "probe linear", "Linear probes"),
    Page("hyper", "Hyperdimensional", "Reading", "probe hd", "Hyperdimensional probe"),
    Page("geometry", "Geometry", "Reading", "probe geometry", "Geometry"),
    Page("patching", "Patching", "Intervening", "patch, attribute", "Patching and ablation"),
    Page("steering", "Steering", "Intervening", "steer", "Steering"),
    Page("experts", "Experts", "Intervening", "experts rank, experts suppress", "Experts"),
    Page("acceleration", "Acceleration", "Intervening", "accelerate", "Acceleration"),
)
"""All pages by section; the first one is opened where the address names none."""
