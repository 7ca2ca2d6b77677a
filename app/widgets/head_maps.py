"""Every head's pattern on one text: all small, one large, and a score of each."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.head_ablation import show_ablation
from lensbench.app.widgets.heat import click_map, show_clickable
from lensbench.app.widgets.model_choice import unknown_note
from lensbench.app.widgets.states import guarded
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import attention
from lensbench.app.workflows.attention import AttentionAsk
from lensbench.app.workflows.patterns import NAMES, Patterns

EVEN = ("Colours run from 0 to 1 for every head of every text. Control: a head that attends evenly "
        "gives each of the k tokens it sees 1/k.")  # fmt: skip


@st.fragment
def head_maps(ask: AttentionAsk, weighted: bool, run: bool) -> None:
    """Draw them; a click on a head chooses it."""
    kind = one_of("Score", NAMES, key="score")
    with guarded():
        told = "Running the model once" if run else "Reading the stored patterns"
        with st.spinner(told, show_time=True):
            found = attention.patterns_for(ask, run=run)
        unknown_note(ask.model, ask.text)
        chosen = pick_of("Head (layer.head)", found.heads(), found.best_head(kind), key="head")
        layer, head = (int(n) for n in chosen.split("."))
        _draw(found, (layer, head), kind, weighted, partial(attention.python_of, ask, run=run))
        show_ablation(ask, chosen)


def _draw(found: Patterns, which: tuple[int, int], kind: str, weighted: bool,
          code: Callable[[str], str]) -> None:  # fmt: skip
    layer, head = which
    more = f", {weighted=}" if weighted else ""

    def pick(head: float, layer: float) -> None:
        st.session_state["head"] = f"{round(layer)}.{round(head)}"

    left, right = st.columns([2, 3])
    with left:
        figure = found.mosaic(chosen=which, kind=kind, weighted=weighted)
        show_clickable(figure, pick, key="heads", frame=found.shown(weighted=weighted),
                       alt=f"Patterns of all {len(found.heads())} heads",
                       code=code(f"mosaic(chosen={which}, kind={kind!r}{more})"))  # fmt: skip
    with right:
        show_figure(found.plot(layer, head, weighted=weighted), key="head-large",
                    alt=f"Attention pattern of head {layer}.{head}", caption=EVEN,
                    frame=found.head(layer, head, weighted=weighted),
                    code=code(f"plot({layer}, {head}{more})"))  # fmt: skip
    scores = found.scores(kind)
    if not found.n_queries(kind):
        st.info(f"This text has no query that the {NAMES[kind].lower()} score asks about: it "
                "needs a token that is said twice.")  # fmt: skip
        return
    click_map(found.plot_scores(kind), pick, key="score-map", chosen=(head, layer),
              alt=f"{NAMES[kind]} score of every head", frame=scores, file=f"scores-{kind}",
              code=code(f"plot_scores({kind!r})"), caption="A head that attends evenly scores "
              f"{scores['even'].iloc[0]:.3f} on the same queries: the control.")  # fmt: skip
