"""Where a direction to steer along comes from; all of it is part of the address."""

from dataclasses import replace

import streamlit as st

from lensbench.app.state import below
from lensbench.app.widgets.dictionary_choice import choose_dictionary
from lensbench.app.widgets.model_choice import choose_model
from lensbench.app.widgets.states import nothing_yet
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows.patching import TASKS
from lensbench.app.workflows.steering import METHODS, SteerAsk
from lensbench.app.workflows.steering_beside import FILE, KINDS, LATENT, TASK, BesideAsk
from lensbench.words import spelled

PLUS = "The doors\nThe teachers\nThe women\nI think the dogs\nEvery day the boys"
MINUS = "The door\nThe teacher\nThe woman\nI think the dog\nEvery day the boy"
"""Many against one: words that the bundled models know."""


def choose_direction() -> BesideAsk | None:
    """Widgets of one kind of direction; None until enough is chosen."""
    asked = "latent" in st.query_params and "direction" not in st.query_params
    if asked and "direction" not in st.session_state:
        st.session_state["direction"] = LATENT  # a link from the page of a latent
    kind = one_of("Direction", KINDS, key="direction")
    if kind == LATENT:
        return _latent()
    model = choose_model()
    if model is None:
        nothing_yet("Choose a model; it continues a prompt at once, as it is and steered. Dose "
                    "curves wait until you ask for them.",
                    "lensbench steer agreement --model atlas-dense")  # fmt: skip
        st.button("Use the bundled atlas-dense", type="primary", key="bundled",
                  on_click=lambda: st.session_state.update(model="atlas-dense"))  # fmt: skip
        return None
    ask = BesideAsk(model, "", kind)
    if kind == TASK:
        return replace(ask, task=choose_task(model))
    layer = int(st.number_input("After block", 0, 200, 1, key="layer", bind="query-params"))
    if kind == FILE:
        name = st.text_input("File under the folder shown", key="file", bind="query-params",
                             placeholder="probe.npy, .safetensors, .json").strip()  # fmt: skip
        if not name:
            st.info("Name a file that holds one vector, as long as the model is wide.")
            return None
        return replace(ask, file=str(below(name)), layer=layer)
    left, right = st.columns(2)
    plus = left.text_area("Towards these prompts, one per line", PLUS, key="plus", height=90,
                          bind="query-params")  # fmt: skip
    minus = right.text_area("Away from these", MINUS, key="minus", height=90, bind="query-params")
    return replace(ask, plus=_lines(plus), minus=_lines(minus), layer=layer)


def choose_task(model: str) -> SteerAsk:
    """A task of the library, and which of its answers the direction points to."""
    left, right = st.columns(2)
    with left:
        task = pick_of("Task", list(TASKS), "agreement", key="task")
        towards = st.text_input("Towards answers", key="towards", bind="query-params",
                                placeholder="such as are,were,seem").strip()  # fmt: skip
        method = pick_of("Made by", list(METHODS), METHODS[0], key="method",
                         shown={m: spelled(m)[0].upper() + spelled(m)[1:] for m in METHODS},
                         )  # fmt: skip
    with right:
        layer = int(st.number_input("After block", 0, 200, 1, key="layer", bind="query-params"))
        usual = "subject" if task == "agreement" else "end"
        source = st.text_input("Token (role or number)", usual, key="source", bind="query-params")
    return SteerAsk(task, model, towards=towards, layer=layer, source=source, method=method,
                    n=32, new_tokens=8)  # fmt: skip


def _latent() -> BesideAsk | None:
    left, middle, right = st.columns([2, 3, 1])
    found = choose_dictionary(left, middle)
    if found is None:
        return None
    latent = right.number_input("Latent", 0, None, 0, key="latent", bind="query-params")
    run, name = found
    return BesideAsk("", "", LATENT, run=str(run), dictionary=name, latent=int(latent))


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())
