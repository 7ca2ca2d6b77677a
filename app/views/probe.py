"""The page Probe: linear probes of a text's labels at stored sites, beside controls."""

import streamlit as st

from lensbench.app.state import inside, store_names
from lensbench.app.widgets.choose import choose, several
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded, nothing_yet
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import probing
from lensbench.app.workflows.probing import METHODS, ProbeAsk

CAPTURE = "lensbench capture --model atlas-dense --text atlas:2000 --sites all --out acts"
COLUMNS = {"selectivity": "Score less control task", "score": "Score", "auroc": "AUROC"}
POSITIONS = {"all": "All tokens", "last": "Last token", "first": "First token"}


def show() -> None:
    """Draw the page."""
    st.title("Probe")
    st.caption("What a linear probe can read off each stored site, beside probes of random labels "
               "and what the token alone tells.")  # fmt: skip
    ask = _ask()
    if ask is None:
        return
    with guarded():
        with st.spinner("Fitting probes of every label at these sites, and their controls"):
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
        show_listing(probing.table_of(found, label), alt=f"Probes of {label}")
        for name, how in probing.missing(found).items():
            st.caption(f"Not shown: {name.replace('_', ' ')}. {how}.")
        command_line(probing.command_of(ask))


def _ask() -> ProbeAsk | None:
    stores = {name: str(inside(name)) for name in store_names()}
    if not stores:
        nothing_yet("There is no store of activations here yet.", CAPTURE)
        return None
    name = choose("Store", list(stores), key="store")
    if name is None:
        return None
    with guarded():
        known = probing.labels_in(stores[name])
        if not known:
            st.info("The text of this store has no labels. Give your own on the command line.")
            command_line(f"lensbench probe linear --store {name} --label-file labels.json")
            return None
        every, few = probing.few_sites(stores[name])
        labels = several("Labels", known, [], key="labels", empty="All that can be probed")
        sites = several("Sites", every, few, key="sites", empty="All of the store")
        left, right = st.columns(2)
        with left:
            method = pick_of("Probe", list(METHODS), METHODS[0], key="method")
            twin = choose("Twin", list(stores), key="twin", placeholder="Store of its random twin")
        with right:
            where = pick_of("Tokens", list(POSITIONS), "all", key="where", shown=POSITIONS)
        return ProbeAsk(stores[name], labels, sites=sites, methods=(method,), positions=(where,),
                        max_rows=10_000, twin=stores.get(twin or "", ""))  # fmt: skip
    return None
