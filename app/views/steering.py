"""The page Steering: what a direction added to the stream does, dose by dose, beside controls."""

import pandas as pd
import streamlit as st

from lensbench.app.state import inside, store_names
from lensbench.app.widgets.choose import choose
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import command_line, guarded
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import steering
from lensbench.app.workflows.lenses import model_names
from lensbench.app.workflows.patching import TASKS
from lensbench.app.workflows.steering import METHODS, SteerAsk, Steering

MEASURES = {
    "effect": "Effect",
    "kl": "KL to the unsteered model",
    "perplexity": "Perplexity of the text",
    "success": "Share of prompts turned",
}


def show() -> None:
    """Draw the page."""
    st.title("Steering")
    st.caption("Add a direction to the residual stream and see what the model then says. It is "
               "made of half of the wordings and tried on the other half.")  # fmt: skip
    ask = _ask()
    if ask is None:
        return
    with guarded():
        with st.spinner("Steering at every strength, and along 40 control directions"):
            found = steering.kept(ask)
        _draw(found, ask)


def _draw(found: Steering, ask: SteerAsk) -> None:
    result = found.result
    measure = one_of("Measure", MEASURES, key="measure")
    show_figure(
        result.plot(measure), key="steering", frame=result.to_frame(),
        code=steering.python_of(ask, measure),
        alt=f"{MEASURES[measure]} against the strength, task {ask.task}, with bands of controls",
        caption=f"{found.n_made_of} prompts made the direction, {result.n} others are steered; one "
                f"unit is a step as long as the state ({result.scale[0]:.1f}). Controls of the "
                f"same length: {len(result.rows_of('random'))} random directions and "
                f"{len(result.rows_of('shuffled'))} made of shuffled labels. "
                + " ".join(result.undefined),
    )  # fmt: skip
    st.markdown("**At equal KL**")
    show_listing(result.matched(), alt="Effect beside controls at the same KL")
    if found.texts:
        st.markdown("**The texts**")
        show_listing(pd.DataFrame(found.texts), alt="Clean and steered continuations")
    command_line(steering.command_of(ask))


def _ask() -> SteerAsk | None:
    left, right = st.columns(2)
    with left:
        stores = [str(inside(s)) for s in store_names()]
        model = choose("Model", model_names(stores), key="model")
        task = pick_of("Task", list(TASKS), "agreement", key="task")
        towards = st.text_input("Towards answers", key="towards", bind="query-params",
                                placeholder="such as are,were,seem").strip()  # fmt: skip
    with right:
        layer = int(st.number_input("After block", 0, 200, 1, key="layer", bind="query-params"))
        usual = "subject" if task == "agreement" else "end"
        source = st.text_input("Token (role or number)", usual, key="source")
        method = pick_of("Direction", list(METHODS), METHODS[0], key="method")
    if model is None:
        st.info("Choose a model; the curve is drawn at once (32 prompt pairs).")
        return None
    return SteerAsk(task, model, towards=towards, layer=layer, source=source, method=method,
                    n=32, new_tokens=8)  # fmt: skip
