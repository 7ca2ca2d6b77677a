"""What can be done with a store: check it, go on to another page with it, remove it."""

from pathlib import Path

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.job_panel import show_jobs, start_job
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import jobs
from lensbench.app.workflows.capture_plan import size
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.shards import files_frame, shard_frame
from lensbench.app.workflows.store_jobs import remove_from_page
from lensbench.app.workflows.stores import store_info, store_size, verify_store

BIG = 256 << 20
"""Bytes above which checksums are compared by a job of its own."""
NEXT = {"train": "Train dictionaries", "lens": "Read with a lens", "token": "Follow one token"}


def store_links(name: str) -> None:
    """Other pages, with this store chosen."""
    with st.container(horizontal=True):
        for page, label in NEXT.items():
            if st.button(label, key=f"next-{page}"):
                go_to(page, store=name)


def store_shards(folder: Path, name: str) -> None:
    """Shards with their state, and the comparison of checksums."""
    bad = (frame := shard_frame(folder))["state"].ne("complete").sum()
    st.caption(f"{len(frame)} shards, {bad} with files that are missing or cut (by size).")
    big = store_info(folder)["bytes"] > BIG
    if st.button("Verify checksums", key="verify", help="Reads every byte of the store."):
        with guarded():
            if big:
                start_job("verify", name, {"store": str(folder)})
            else:
                with st.spinner("Reading every byte"):
                    sound = f"{verify_store(folder)['files']:,}"
                st.success(f"{sound} files are what was written (sha256).")
    show_jobs("verify", "store", str(folder))
    named = {column: column.replace("_", " ") for column in frame.columns}
    show_listing(frame, alt="shards of the store", headings=named, take="shards",
                 code=python_of(shard_frame, folder))  # fmt: skip
    if frame.empty:
        return
    shards = [int(n) for n in frame["shard"]]
    shard = pick_of("Files of shard", shards, shards[0], key="shard")
    show_listing(files_frame(folder, shard), alt="files of the shard with their checksums",
                 take="files", code=python_of(files_frame, folder, shard))  # fmt: skip


def going(folder: Path) -> None:
    """Captures that were started on a page and write this store."""
    with guarded():
        for job in jobs.all_jobs(root(), "capture"):
            if job.settings["out"] == str(folder) and job.state != "finished":
                st.info(plain(f"A capture writes this store: {job.state}."))
                if st.button("Look at it", key=f"look-{job.name}"):
                    go_to("capture", job=job.name)


def store_removal(folder: Path, name: str) -> None:
    """The button that removes a store, with what would be gone."""
    with st.popover("Remove the store", key="remove"):
        gone = f"{size(store_size(folder))} of activations would be gone for good."
        st.write(f"{gone} Dictionaries that were trained on them stay, but can no longer be "
                 "evaluated there.")  # fmt: skip
        if st.button("Remove for good", key="remove-sure", type="primary"):
            with guarded():
                remove_from_page(root(), folder)
                st.toast(plain(f"{name} is removed."))
                go_to("stores")
