"""Random rows of a store, and the sequence around one of them, token by token."""

from pathlib import Path

import streamlit as st

from lensbench.app.cache import sample
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.strip import token_strip
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.shards import around, sample_frame
from lensbench.app.workflows.stores import store_info
from lensbench.plots import visible


def store_rows(folder: Path, name: str) -> None:
    """Draw both; what is chosen is part of the address."""
    sites = [str(site["site"]) for site in store_info(folder)["sites"]]
    left, middle, right = st.columns(3)
    site = left.selectbox("Site", sites, key="site", bind="query-params")
    n = middle.number_input("Rows", 1, 200, 20, key="n", bind="query-params")
    seed = right.number_input("Seed", 0, 10**6, 0, key="seed", bind="query-params")
    frame = sample(folder, n=int(n or 20), site=str(site), seed=int(seed or 0))
    if frame.empty:
        st.info("This store holds no rows yet.")
        return
    show_listing(
        frame, alt="random rows of the store with their tokens", headings={"token_id": "token id"},
        take="rows", caption=f"{len(frame)} random rows (seed {seed}); norm: length of the stored "
        "vector.", code=python_of(sample_frame, folder, n=len(frame), site=str(site),
                                  seed=int(seed or 0)),
    )  # fmt: skip
    _sequence(folder, name, int(frame["row"].iloc[0]))


def _sequence(folder: Path, name: str, first: int) -> None:
    st.header("The sequence around a row")
    last = store_info(folder)["tokens"] - 1
    row = st.number_input("Row to look at", 0, last, min(first, last), key="row",
                          bind="query-params", help="One row per stored token")  # fmt: skip
    found = around(folder, int(row or 0))

    def pick(place: int) -> None:
        st.session_state["row"] = found.rows[place]

    token_strip(found.words, [r >= 0 for r in found.rows], found.focus, pick, key="sequence",
                label="tokens of the sequence; those without a stored row are pale")  # fmt: skip
    word = visible(found.words[found.focus])
    st.caption(plain(f"Row {int(row or 0):,}: token {word!r} (id {found.token_id}) of document "
                     f"{found.document:,}.{found.left}"))  # fmt: skip
    if st.button("Follow this token", key="follow"):
        go_to("token", store=name, row=str(int(row or 0)))
