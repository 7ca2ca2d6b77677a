"""What is probed: a store, labels, sites, tokens, and a twin; all of it part of the address."""

import streamlit as st

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose, several
from lensbench.app.widgets.states import command_line, guarded, in_shell, no_store_yet, nothing_yet
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import probe_page
from lensbench.app.workflows.probing import METHODS, ProbeAsk

POSITIONS = {"all": "All tokens", "last": "Last token", "first": "First token"}


def choose_probe() -> ProbeAsk | None:
    """Widgets of a request; None until enough is chosen."""
    stores = {name: str(inside(name)) for name in store_names()}
    if not stores:
        no_store_yet(root() / "acts", "atlas:2000", "--sites", "all")
        return None
    name = choose("Store", list(stores), key="store")
    if name is None:
        nothing_yet("Choose a store; the labels of its text are probed.",
                    in_shell("probe", "linear", "--store", inside(next(iter(stores)))))  # fmt: skip
        return None
    with guarded():
        known = probe_page.labels_in(stores[name])
        if not known:
            st.info("The text of this store has no labels. Give your own on the command line.")
            command_line(in_shell("probe", "linear", "--store", inside(name), "--label-file",
                                  "labels.json"))  # fmt: skip
            return None
        every, few = probe_page.few_sites(stores[name])
        labels = several(
            "Labels", list(known), probe_page.few_labels(known), key="labels",
            empty="All that can be probed", shown=probe_page.in_words(known),
        )  # fmt: skip
        sites = several("Sites", every, few, key="sites", empty="All of the store")
        left, right = st.columns(2)
        with left:
            method = pick_of("Probe", list(METHODS), METHODS[0], key="method")
            twin = choose("Twin", list(stores), key="twin", placeholder="Store of its random twin")
        with right:
            where = pick_of("Tokens", list(POSITIONS), "all", key="where", shown=POSITIONS)
        return ProbeAsk(stores[name], labels, sites=sites, methods=(method,), positions=(where,),
                        max_rows=probe_page.ROWS, twin=stores.get(twin or "", ""))  # fmt: skip
    return None
