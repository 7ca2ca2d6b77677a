"""The page Hyperdimensional: concepts read off the stream by binding, beside what must not."""

import pandas as pd
import streamlit as st

from lensbench.app.state import root
from lensbench.app.widgets.decode_table import decode_table
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.fit_job import fit_done, fit_job
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.model_choice import choose_model
from lensbench.app.widgets.states import command_line, guarded, nothing_yet
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import hyper

SIZES = {1500: "1,500 (quicker, weak)", 6000: "6,000 (slow)"}
TOLD = "Fits the probe and every baseline, in a process of its own; the page can be left."


def show() -> None:
    """Draw the page."""
    st.title("Hyperdimensional")
    st.caption("An encoder turns the state at the last token into a hypervector; unbinding the "
               "words of the prompt from it reads what they are bound to.")  # fmt: skip
    ask = _ask()
    if ask is None:
        return
    with guarded():
        found = hyper.saved(root(), ask)
        settings = hyper.settings_of(ask, hyper.folder_for(root(), ask))
        if found is None:
            fit_job("hd", settings, "Run the study", key="start-hd", told=TOLD)
            return
        show_figure(
            found.plot(), key="hyper", frame=found.to_frame(), code=hyper.python_of(ask),
            alt="Scores of the probe beside its baselines", provenance=hyper.told_of(found),
            caption=f"n = {int(found.right.sum())} held-out prompts that the model gets right, of "
                    f"{len(found.right)}; {found.n_train:,} to train on. Bars: 95 % over facts; "
                    f"{hyper.chances(found)}. Read without knowing the answer; gold "
                    "picks the query that fits it best. The MLP classifier is told the answers.",
        )  # fmt: skip
        decode_table(found, ask)
        st.markdown("**Right and wrong**")
        code = hyper.table_code(ask, ".contingency.reset_index(names='')")
        show_listing(found.contingency.reset_index(names=""), alt="Model by probe, right or wrong",
                     take="right-wrong", code=code)  # fmt: skip
        _flags(ask, *hyper.failures(found))
        fit_done("hd", settings)
        command_line(hyper.command_of(ask))


def _flags(ask: hyper.HDAsk, rows: list[dict[str, object]], why: str) -> None:
    st.markdown("**Telling the model's errors**")
    if not rows:
        st.info(why)
        return
    better = [str(row["score"]) for row in rows if float(str(row["gain_low"])) > 0] or ["none"]
    show_listing(
        pd.DataFrame(rows), alt="AUROC of telling wrong answers, by score", digits=3, take="flags",
        code=hyper.table_code(ask, ".failures().to_frame()"),
        caption="Gain: AUROC less that of the model's own largest probability, paired bootstrap. "
        f"Better than it, the whole interval above 0: {', '.join(better)}.")  # fmt: skip


def _ask() -> hyper.HDAsk | None:
    left, right = st.columns(2)
    with left:
        model = choose_model()
        task = pick_of("Prompts", list(hyper.TASK_NAMES), hyper.TASK_NAMES[0], key="task")
    with right:
        split = pick_of("Held out", list(hyper.SPLIT_NAMES), hyper.SPLIT_NAMES[0], key="split")
        size = pick_of("Training prompts", list(SIZES), 1500, key="size", shown=SIZES)
    after = st.toggle("Read after the model has answered", key="after", bind="query-params")
    if model is None:
        nothing_yet("Choose a model that knows the atlas.",
                    "lensbench probe hd --model atlas-dense")  # fmt: skip
        st.button("Use the bundled atlas-dense", type="primary", key="bundled",
                  on_click=lambda: st.session_state.update(model="atlas-dense"))  # fmt: skip
        return None
    return hyper.HDAsk(model, task, split, n_train=size, n_test=200, after=after)
