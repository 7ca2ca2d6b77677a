"""Stores: what was captured, whether it is sound, and what its rows are."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded, in_shell, nothing_yet
from lensbench.app.widgets.store_growth import store_facts
from lensbench.app.widgets.store_rows import store_rows
from lensbench.app.widgets.store_work import going, store_links, store_removal, store_shards
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.overview import store_frame
from lensbench.app.workflows.shards import manifest_of, sites_frame


def show() -> None:
    """Draw the page."""
    st.title("Stores")
    names = store_names()
    chosen = choose("Store", names, key="store")
    if not names:
        command = in_shell("capture", "--model", "atlas-dense", "--text", "atlas:2000", "--profile",
                           "resid", "--out", root() / "acts")  # fmt: skip
        nothing_yet("No activation store in this folder yet.", command,
                    next_step="Make one on the page Capture.")  # fmt: skip
    elif chosen is None:
        frame = store_frame(root(), names)
        picked = show_listing(frame, alt="activation stores", pick="pick-store")
        if picked is not None:
            go_to("stores", store=names[picked])
        nothing_yet("Choose a store to see its sites, its shards and some of its rows.",
                    in_shell("store", "ls", root()))  # fmt: skip
    else:
        with guarded():
            _store(chosen)
        with guarded():
            store_removal(inside(chosen), chosen)


def _store(name: str) -> None:
    folder = inside(name)
    store_facts(folder)
    going(folder)
    store_links(name)
    parts = {"Sites": _sites, "Shards": store_shards, "Rows": store_rows, "Manifest": _manifest}
    tabs = st.tabs(list(parts), key="part", on_change="rerun", bind="query-params")
    for tab, draw in zip(tabs, parts.values(), strict=True):
        if tab.open:
            with tab, guarded():
                draw(folder, name)
    command_line("\n".join(in_shell("store", verb, folder) for verb in ("info", "verify")))


def _sites(folder: Path, _: str) -> None:
    show_listing(
        sites_frame(folder),
        alt="sites of the store",
        take="sites",
        headings={"alias_of": "the same as"},
        code=python_of(sites_frame, folder),
    )


def _manifest(folder: Path, _: str) -> None:
    st.json(manifest_of(folder), expanded=1)
