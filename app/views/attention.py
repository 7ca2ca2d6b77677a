"""The page Attention: every head's pattern on one text, and what it looks like it does."""

from dataclasses import asdict

import streamlit as st

from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.heat import click_map, show_clickable
from lensbench.app.widgets.missing import missing
from lensbench.app.widgets.states import guarded
from lensbench.app.widgets.text_source import REPEATED, STORED, TYPED, choose_source
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import attention
from lensbench.app.workflows.attention import AttentionAsk
from lensbench.app.workflows.patterns import NAMES, Patterns
from lensbench.app.workflows.sequences import name_of_model


def show() -> None:
    """Draw the page."""
    st.title("Attention")
    st.caption("Where each head looks. Click a head to see it large.")
    source = choose_source(STORED, TYPED, REPEATED)
    if source is None:
        return
    ask = AttentionAsk(**asdict(source))
    weighted = st.toggle("Weight by the length of the value vectors", key="weighted",
                         bind="query-params")  # fmt: skip
    run = not ask.store
    if ask.store and (why := attention.stored_or_why(ask.store, weighted=weighted)):
        note = st.empty()
        run = st.toggle("Run the model once on this sequence", key="run", bind="query-params")
        if not run:
            with note.container():
                missing(why, model=name_of_model(ask.store))
            return
    _heads(ask, weighted, run)


@st.fragment
def _heads(ask: AttentionAsk, weighted: bool, run: bool) -> None:
    kind = one_of("Score", NAMES, key="score")
    with guarded():
        found = attention.patterns_for(ask, run=run)
        chosen = pick_of("Head (layer.head)", found.heads(), found.best_head(kind), key="head")
        layer, head = (int(n) for n in chosen.split("."))
        code = attention.python_of(ask, layer, head, weighted=weighted, run=run)
        _draw(found, (layer, head), kind, weighted, code)


def _draw(found: Patterns, which: tuple[int, int], kind: str, weighted: bool, code: str) -> None:
    layer, head = which

    def pick(head: float, layer: float) -> None:
        st.session_state["head"] = f"{round(layer)}.{round(head)}"

    left, right = st.columns([2, 3])
    with left:
        figure = found.mosaic(chosen=which, kind=kind, weighted=weighted)
        show_clickable(figure, pick, key="heads", alt=f"Patterns of all {len(found.heads())} heads")
    with right:
        show_figure(found.plot(layer, head, weighted=weighted), key="head-large",
                    alt=f"Attention pattern of head {layer}.{head}",
                    frame=found.head(layer, head, weighted=weighted), code=code)  # fmt: skip
    scores = found.scores(kind)
    if not found.n_queries(kind):
        st.info(f"This text has no query that the {kind} score asks about (no repeated token).")
        return
    click_map(found.plot_scores(kind), pick, key="score-map", chosen=(head, layer),
              alt=f"{kind} score of every head")  # fmt: skip
    even = float(scores["even"].iloc[0])
    st.caption(f"A head that attends evenly scores {even:.3f} on the same queries: the control.")
    take_away(scores, key=f"scores-{kind}")
