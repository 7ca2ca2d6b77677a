"""The page Probe: linear probes of a text's labels at stored sites, beside controls."""

import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.probe_choice import choose_probe
from lensbench.app.widgets.states import command_line, guarded, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import probe_page, probing

COLUMNS = {"selectivity": "Score less control task", "score": "Score", "auroc": "AUROC"}


def show() -> None:
    """Draw the page."""
    st.title("Probe")
    st.caption("What a linear probe can read off each stored site, beside probes of random labels "
               "and what the token alone tells.")  # fmt: skip
    ask = choose_probe()
    if ask is None:
        return
    with guarded():
        with st.spinner("Fitting probes and their controls"):
            found = probe_page.found_for(root(), ask)
        settings = probing.settings_of(ask, probe_page.folder_for(root(), ask))
        if found is None:
            fit_job("probes", settings, "Fit the probes", key="start-probes",
                    told=f"{probe_page.cells_of(ask):,} probes and their controls, in a process "
                    "of its own; the page can be left.")  # fmt: skip
            return
        said = probe_page.in_words(found.labels)
        if len(found.labels) > 1:
            column = one_of("Shown", COLUMNS, key="shown")
            show_figure(
                found.plot(column=column), key="probe-map", frame=found.to_frame(),
                code=probing.python_of(ask, f".plot(column={column!r})"),
                alt=f"{COLUMNS[column]} of every label at every site",
                caption=f"n = {found.n_documents:,} documents, split by document. Scores are "
                        f"{found.metric.replace('_', ' ')}. Control task: the same probe on random "
                        "labels of the same tokens; what it scores, a probe can learn by heart.",
            )  # fmt: skip
            if lacking := probe_page.blank(found, column):
                names = ", ".join(said[label] for label in lacking)
                st.caption(plain(f"Blank, as there is no such figure of them here: {names}."))
        names = list(found.labels)
        label = pick_of("Label", names, names[0], key="label", shown=said)
        show_figure(
            found.plot(label), key="probe-label", frame=found.to_frame(),
            code=probing.python_of(ask, f".plot({label!r})"),
            alt=f"Score of the probe of {said[label]} at every site, beside its controls",
            caption="Bands, and low to high: 95 % over test documents. Token lookup: each token's "
                    "most frequent label; majority: the most frequent label.",
        )  # fmt: skip
        show_listing(probing.table_of(found, label), alt=f"Probes of {label}",
                     headings=probe_page.HEADINGS, digits=3, take="probe-table",
                     code=probing.table_code(ask, label))  # fmt: skip
        for name, how in probing.missing(found).items():
            st.caption(f"Not shown: {name.replace('_', ' ')}. {how}.")
        fit_done("probes", settings)
        command_line(probing.command_of(ask))
