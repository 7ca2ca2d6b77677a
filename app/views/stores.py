"""Stores: what was captured, whether it is sound, and what its rows are."""

from pathlib import Path

import streamlit as st

from lensbench.app.cache import sample
from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import take_away
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded, nothing_yet
from lensbench.app.workflows.overview import store_frame
from lensbench.app.workflows.shards import manifest_of, shard_frame
from lensbench.app.workflows.stores import store_info, verify_store


def show() -> None:
    """Draw the page."""
    st.title("Stores")
    names = store_names()
    chosen = choose("Store", names, key="store")
    if not names:
        command = f"lensbench capture --model atlas-dense --text atlas:2000 --out {root()}/acts"
        nothing_yet("No activation store in this folder yet.", command)
    elif chosen is None:
        show_listing(store_frame(root(), names), alt="activation stores")
        st.info("Choose a store to see its sites, its shards and some of its rows.")
    else:
        _store(chosen)


def _store(name: str) -> None:
    folder = inside(name)
    info = store_info(folder)
    for column, fact in zip(st.columns(3), ("tokens", "documents", "shards"), strict=True):
        column.metric(fact, f"{info[fact]:,}", border=True)
    st.text(
        f"model {info['model']} ({info['fingerprint']})  ·  text {info['text']}  ·  "
        f"layout {info['layout']}  ·  {info['dtype']}  ·  {info['bytes'] / 2**20:,.1f} MiB  ·  "
        + ("complete" if info["complete"] else "still growing")
    )
    parts = {"Sites": _sites, "Shards": _shards, "Rows": _rows, "Manifest": _manifest}
    tabs = st.tabs(list(parts), key="part", on_change="rerun", bind="query-params")
    for tab, draw in zip(tabs, parts.values(), strict=True):
        if tab.open:
            with tab, guarded():
                draw(folder)
    command_line("\n".join(f"lensbench store {verb} {folder}" for verb in ("info", "verify")))


def _sites(folder: Path) -> None:
    st.dataframe(store_info(folder)["sites"], hide_index=True, alt="sites of the store")


def _shards(folder: Path) -> None:
    bad = (frame := shard_frame(folder))["state"].ne("complete").sum()
    st.caption(f"{len(frame)} shards, {bad} with files that are missing or cut (by size).")
    if st.button("Verify checksums", key="verify", help="Reads every byte of the store."):
        with guarded():
            sound = f"{verify_store(folder)['files']:,}"
            st.success(f"{sound} files are what was written (sha256).")
    st.dataframe(frame, hide_index=True, alt="shards of the store")
    take_away(frame, key="shards")


def _rows(folder: Path) -> None:
    sites = [str(site["site"]) for site in store_info(folder)["sites"]]
    left, middle, right = st.columns(3)
    site = left.selectbox("Site", sites, key="site", bind="query-params")
    n = middle.number_input("Rows", 1, 200, 20, key="n", bind="query-params")
    seed = right.number_input("Seed", 0, 10**6, 0, key="seed", bind="query-params")
    frame = sample(folder, n=int(n or 20), site=str(site), seed=int(seed or 0))
    st.dataframe(frame, hide_index=True, alt="random rows of the store with their tokens")
    st.caption(f"{len(frame)} random rows (seed {seed}); norm: length of the stored vector.")
    take_away(frame, key="rows")


def _manifest(folder: Path) -> None:
    st.json(manifest_of(folder), expanded=1)
