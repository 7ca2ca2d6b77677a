"""Train: dictionaries from a form or from YAML, and tuned lenses, as processes of their own."""

import streamlit as st
import yaml

from lensbench.app.state import inside, root, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.lens_form import lens_form
from lensbench.app.widgets.start_form import start_form
from lensbench.app.widgets.start_run import start_run
from lensbench.app.widgets.states import guarded, in_shell, nothing_yet
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import forms, launching

FORM, YAML, LENS = "form", "yaml", "lens"
WAYS = {FORM: "Dictionaries, by a form", YAML: "Dictionaries, from YAML", LENS: "A tuned lens"}


def show() -> None:
    """Draw the page."""
    st.title("Train")
    stores = store_names()
    if not stores:
        command = (
            f"lensbench capture --model atlas-dense --text atlas:2000 --profile resid "
            f"--out {root()}/acts"
        )
        nothing_yet("Training needs an activation store, and there is none here.", command,
                    next_step="Make one on the page Capture.")  # fmt: skip
        return
    store = choose("Store", stores, key="store")
    way = one_of("Train", WAYS, key="train")
    if way == YAML:
        _yaml(store or stores[0])
    elif store is None:
        example = in_shell("train", "sae", "--store", inside(stores[0]), "--k", "16,32")
        nothing_yet("Choose a store to train on.", example)
    elif way == LENS:
        lens_form(store)
    else:
        with guarded():
            if (settings := start_form(store)) is not None:
                start_run(settings, name=str(settings["sweep"][0]["architecture"]))


def _yaml(store: str) -> None:
    """A sweep file, pasted or edited; keys that nobody knows are refused by name."""
    st.caption("Three keys: source, train and sweep. A store is named from the folder shown. "
               "Unknown keys are refused, with the nearest known one.")  # fmt: skip
    text = st.text_area("Sweep file", _example(store), height=320, key="yaml",
                        persist_state="session")  # fmt: skip
    with guarded():
        start_run(launching.read_yaml(root(), text or "").to_dict(), name="sweep")


def _example(store: str) -> str:
    site = str(forms.usual_site(inside(store)))
    entry = {"architecture": "topk", "site": site, "d_sae": forms.WIDTH, "k": [16, 32]}
    told = {"source": {"store": store}, "train": {"tokens": forms.TOKENS}, "sweep": [entry]}
    return yaml.safe_dump(told, sort_keys=False)
