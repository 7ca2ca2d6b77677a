"""What a run is to train: a store, its sites, an architecture, and the settings of its schema."""

from typing import Any

import streamlit as st

from lensbench.app.state import inside
from lensbench.app.widgets.choose import several
from lensbench.app.widgets.form import fill
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import forms
from lensbench.app.workflows.stores import store_info

FIRST = 3
"""Settings that are in sight before one asks for more."""
ROLES = {
    forms.SAE: "Autoencoders, one for each site",
    forms.TRANSCODER: "Transcoder, from one site to another",
    forms.CROSSCODER: "Crosscoder, several sites at once",
}


def start_form(store: str) -> dict[str, Any] | None:
    """Draw the form; what it asks for as a sweep file holds it, or None until sites are chosen."""
    offered = [str(s["site"]) for s in store_info(inside(store))["sites"]]
    roles = ROLES if len(offered) > 1 else {forms.SAE: ROLES[forms.SAE]}
    role = one_of("What to train", roles, key="role")
    sites = _sites(role, offered)
    known = forms.architectures(role)
    architecture = pick_of("Architecture", known, known[0], key="architecture")
    st.header("Dictionaries")
    st.caption("Several values, parted by commas, make one dictionary for each combination.")
    key = f"new-{architecture}"
    dictionary = fill(forms.dictionary_fields(architecture), key=key, first=FIRST, grid=True)
    st.header("Training")
    train = fill(forms.train_fields(), key="new-train", first=FIRST)
    if not sites:
        return None
    return forms.sweep_from(
        str(inside(store)), forms.ends_of(role, sites), architecture,
        {"d_sae": forms.WIDTH, **dictionary}, forms.with_curves({"tokens": forms.TOKENS, **train}),
    )  # fmt: skip


def _sites(role: str, offered: list[str]) -> tuple[str, ...]:
    """Sites of the store: any number, a pair, or at least two."""
    residual = [s for s in offered if s.endswith("resid_post")] or offered
    middle = residual[(len(residual) - 1) // 2]
    if role == forms.TRANSCODER:
        left, right = st.columns(2)
        with left:
            reads = pick_of("It reads", offered, middle, key="reads")
        later = [s for s in offered if s != reads]
        with right:
            beside = later[min(offered.index(reads), len(later) - 1)]
            return (reads, pick_of("It writes", later, beside, key="writes"))
    if role == forms.CROSSCODER:
        chosen = several("Sites", offered, residual[:2], key="together", empty="two or more")
        if len(chosen) < 2:
            st.info("A crosscoder needs two sites or more.")
            return ()
        return chosen
    chosen = several("Sites", offered, (middle,), key="site", empty="one or more")
    if not chosen:
        st.info("Choose a site to train on.")
    return chosen
