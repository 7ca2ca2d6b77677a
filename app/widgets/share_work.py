"""Sharing a dictionary: written as a job, then where it lies, what it holds, and how to open it."""

from pathlib import Path

import pandas as pd
import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.job_panel import show_jobs, start_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import jobs, sharing
from lensbench.app.workflows.capture_plan import size


def share(run: Path, names: list[str]) -> None:
    """Draw the form, the work that goes on, and what was shared of the dictionary before."""
    left, right = st.columns(2)
    with left:
        name = pick_of("Dictionary", names, names[0], key="share-name")
    with right:
        format = pick_of("Format", list(sharing.FORMATS), "sae_lens", key="share-format",
                         shown=sharing.FORMATS)  # fmt: skip
    usual = sharing.free_name(root(), f"{name}-{format}" if format != "sae_lens" else name)
    out = st.text_input(f"Folder below {sharing.FOLDER}/", usual, key=f"share-out-{usual}",
                        help="Nothing that is there is replaced.")  # fmt: skip
    with guarded():
        settings = sharing.settings(root(), run, name, format, (out or "").strip())
        if st.button("Write and check it", key="start-share", type="primary"):
            start_job("share", f"{name} as {sharing.FOLDER}/{Path(settings['out']).name}", settings)
            st.rerun()
        st.caption("It is written, read back, and its codes of random inputs are compared with "
                   "those of the trained one.")  # fmt: skip
        command_line(jobs.command_of("share", settings))
    show_jobs("share", "name", str(run), finished=False)  # what one has made is shown below
    for one in sharing.shared_folders(root(), run, name):
        with st.container(border=True), guarded():
            _shown(one)


def _shown(one: sharing.Shared) -> None:
    """Where a shared folder lies, its files with checksums, and how to open it."""
    format = str(one.about["format"])
    owner = sharing.FORMATS.get(format, format)
    st.markdown(f"**{plain(f'{one.name}: {owner}, {size(one.bytes)}')}**")
    st.code(str(one.folder), language=None, wrap_lines=True)
    rows = [
        {"file": name, "size": size(many), "sha256": digest} for name, many, digest in one.files
    ]
    show_listing(pd.DataFrame(rows), alt=f"files of {one.name}")
    differ = float(one.about.get("codes_differ_by", float("nan")))
    st.caption(plain(f"Read back, its codes differ by at most {differ:.2g} from those of the "
                     f"trained dictionary, on {sharing.ROWS} random rows of mean square 1. "
                     f"Checksums lie beside the files in {sharing.SUMS}; whoever receives the "
                     "folder checks it there with:"))  # fmt: skip
    st.code(f"sha256sum --check {sharing.SUMS}", language="bash")
    if one.owners_code:
        st.caption(f"Open it in {owner}:")
        st.code(one.owners_code, language="python")
    st.caption("Open it here:")
    st.code(one.code, language="python")
