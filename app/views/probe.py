"""The page Probe: linear probes of a text's labels at stored sites, beside controls."""

import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.probe_choice import choose_probe
from lensbench.app.widgets.states import command_line, guarded
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import probing

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
        cells = probing.cells_of(ask)
        if cells > probing.UNASKED and not st.toggle(
            f"Fit {cells:,} probes and their controls", key="fit", bind="query-params"
        ):
            st.caption("That may take a minute; fewer labels or sites are drawn at once.")
            return
        with st.spinner(f"Fitting {cells:,} probes and their controls"):
            found = probing.kept(ask)
        if len(found.labels) > 1:
            column = one_of("Shown", COLUMNS, key="shown")
            show_figure(
                found.plot(column=column), key="probe-map", frame=found.to_frame(),
                code=probing.python_of(ask, f".plot(column={column!r})"),
                alt=f"{COLUMNS[column]} of every label at every site",
                caption=f"{found.n_documents:,} documents, split by document. Scores are "
                        f"{found.metric.replace('_', ' ')}. Control task: the same probe on random "
                        "labels of the same tokens; what it scores, a probe can learn by heart.",
            )  # fmt: skip
        names = list(found.labels)
        label = pick_of("Label", names, names[0], key="label")
        show_figure(
            found.plot(label), key="probe-label", frame=found.to_frame(),
            code=probing.python_of(ask, f".plot({label!r})"),
            alt=f"Score of the probe of {label} at every site, beside its controls",
            caption="Bands: 95 % intervals over test documents. Token lookup: each token's most "
                    "frequent label; majority: the most frequent label.",
        )  # fmt: skip
        show_listing(probing.table_of(found, label), alt=f"Probes of {label}",
                     headings=probing.HEADINGS)  # fmt: skip
        for name, how in probing.missing(found).items():
            st.caption(f"Not shown: {name.replace('_', ' ')}. {how}.")
        command_line(probing.command_of(ask))
