"""The form that starts a run: a store, a site, an architecture, and the settings of its schema."""

import time

import streamlit as st
import yaml

from lensbench.app.state import inside, root
from lensbench.app.widgets.form import fill
from lensbench.app.widgets.links import go_to
from lensbench.app.widgets.states import guarded, nothing_yet
from lensbench.app.workflows import forms, launching
from lensbench.app.workflows.stores import store_info

FIRST = 3
"""Settings that are in sight before one asks for more."""


def start_form(stores: list[str]) -> None:
    """Draw the form; a run that was started is opened on the page."""
    if not stores:
        command = f"lensbench capture --model atlas-dense --text atlas:2000 --out {root()}/acts"
        nothing_yet("Training needs an activation store, and there is none here.", command)
        return
    left, middle, right = st.columns(3)
    store = left.selectbox("Store", stores, key="new-store")
    offered = [str(s["site"]) for s in store_info(inside(store))["sites"]]
    middle_site = [s for s in offered if s.endswith("resid_post")] or offered
    at = offered.index(middle_site[(len(middle_site) - 1) // 2])
    site = middle.selectbox("Site", offered, index=at, key="new-site")
    architecture = right.selectbox("Architecture", forms.architectures(), key="new-architecture")
    with st.form("start", border=True):
        st.markdown("**Dictionaries**")
        st.caption("Several values, parted by commas, make one dictionary for each combination.")
        key = f"new-{architecture}"
        dictionary = fill(forms.dictionary_fields(architecture), key=key, first=FIRST, grid=True)
        st.markdown("**Training**")
        train = fill(forms.train_fields(), key="new-train", first=FIRST)
        stamp = st.session_state.setdefault("new-stamp", time.strftime("%m%d-%H%M%S"))
        name = st.text_input("Name of the run", f"{architecture}-{stamp}", key="new-name")
        asked = {"tokens": forms.TOKENS, **train}
        settings = forms.sweep_from(
            str(inside(store)), site, architecture, {"d_sae": forms.WIDTH, **dictionary}, asked
        )
        with st.container(horizontal=True):
            cost = st.form_submit_button("Forecast", help="Memory, disk and time; trains nothing.")
            go = st.form_submit_button("Start training", type="primary")
    with guarded():
        if go:
            folder = launching.new_run(root(), name.strip(), settings)
            st.session_state.pop("new-stamp", None)
            st.session_state["started"] = True
            go_to("runs", run=folder.relative_to(root()).as_posix())
        if cost:
            st.code("\n".join(launching.forecast(settings)["lines"]), language=None)
    with st.expander("The same on the command line"):
        st.caption("Save as sweep.yaml:")
        st.code(yaml.safe_dump(settings, sort_keys=False), language="yaml")
        st.code(f"lensbench train sae --config sweep.yaml --out {root()}/runs/{name}", "bash")
