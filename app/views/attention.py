"""The page Attention: every head's pattern on one text, and what each head looks like it does."""

from collections.abc import Callable
from dataclasses import asdict

import streamlit as st

from lensbench.app.state import mode
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.heat import click_map, show_clickable
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.text_source import REPEATED, STORED, TYPED, choose_source
from lensbench.app.widgets.toggle import one_of
from lensbench.app.workflows import attention
from lensbench.app.workflows.attention import AttentionAsk
from lensbench.app.workflows.patterns import KINDS, NAMES, Patterns
from lensbench.plots import heatmap, template


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
        st.info(plain(why))
        run = st.toggle("Run the model once on this sequence", key="run", bind="query-params")
        if not run:
            return
    _heads(ask, weighted, run)


@st.fragment
def _heads(ask: AttentionAsk, weighted: bool, run: bool) -> None:
    found = attention.patterns_for(ask, run=run)
    kind = one_of("Score", NAMES, key="score")
    heads = found.heads()
    if st.session_state.get("head") not in heads:
        st.session_state["head"] = found.best_head(kind)

    def pick(head: float, layer: float) -> None:
        st.session_state["head"] = f"{round(layer)}.{round(head)}"

    layer, head = (int(n) for n in str(st.session_state["head"]).split("."))
    code = attention.python_of(ask, layer, head, weighted=weighted, run=run)
    left, right = st.columns([2, 3])
    with left:
        figure = found.mosaic(chosen=(layer, head), kind=kind, weighted=weighted)
        figure.update_layout(template=template(mode()))
        show_clickable(figure, pick, key="heads", alt=f"Patterns of all {len(heads)} heads")
    with right:
        show_figure(found.plot(layer, head, weighted=weighted), key="head-large",
                    alt=f"Attention pattern of head {layer}.{head}",
                    frame=found.head(layer, head, weighted=weighted), code=code)  # fmt: skip
    st.selectbox("Head (layer.head)", heads, key="head", bind="query-params")
    _scores(found, kind, (head, layer), pick)


def _scores(
    found: Patterns, kind: str, chosen: tuple[int, int], pick: Callable[[float, float], None]
) -> None:
    table = found.scores()
    scores = table.loc[table["kind"] == kind].reset_index(drop=True)
    n, even = int(scores["n"].iloc[0]), float(scores["even"].iloc[0])
    if n == 0:
        st.info(f"This text has no query that the {kind} score asks about (no repeated token).")
        return
    figure = heatmap(scores, x="head", y="layer", value="score", span=(0.0, 1.0),
                     hover_columns=("even", "n"), title=f"Score of every head: {kind}",
                     subtitle=f"{KINDS[kind]} · n = {n} queries of one text")  # fmt: skip
    click_map(figure, pick, key="score-map", chosen=chosen, alt=f"{kind} score of every head")
    st.caption(f"A head that attends evenly scores {even:.3f} on the same queries: the control.")
    st.dataframe(scores, hide_index=True)
