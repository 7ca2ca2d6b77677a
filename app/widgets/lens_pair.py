"""Two texts side by side through a lens, a state of the first put into the second, and the change.

Clicks: a cell of the first map is where the state comes from, one of the second where it goes.
"""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.heat import click_map
from lensbench.app.widgets.lens_choice import choose_lens
from lensbench.app.widgets.lens_special import special_toggle
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.model_choice import choose_model, unknown_note
from lensbench.app.widgets.states import command_line, guarded, in_shell, nothing_yet, plain
from lensbench.app.widgets.text_source import MODEL, TEXT, offer
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import lens_pair as pairs
from lensbench.app.workflows.copying import python_of as python_of_call
from lensbench.app.workflows.lens_pair import MOST, SITES, PairAsk, Put
from lensbench.app.workflows.lens_pair_answer import command_of
from lensbench.app.workflows.lens_pair_figures import Change, course_of, ends_table, python_of
from lensbench.app.workflows.lens_special import grey, python_of_grey
from lensbench.app.workflows.lenses import DISCLAIMER, MAX_TEXT
from lensbench.plots import visible

OTHER = "The capital of France is"
"""Beside the example text, of the command that is shown before anything is chosen."""
NARROW = 14
"""Tokens up to which two maps stand side by side."""
METRICS = {
    "target_prob": "Probability of the token",
    "target_rank": "Rank of the token",
    "top_prob": "Probability of the best token",
    "entropy": "Entropy",
    "kl_to_final": "KL(final ‖ this layer)",
}


def show_pair() -> None:
    """Widgets for two texts; all else once both are there."""
    name = choose_model()
    if name is None:
        nothing_yet("Choose a model; an example pair is one click away.", _line(MODEL))
        return
    offer(name, "text", "text2")
    left, right = st.columns(2)
    first = left.text_area("First text (the state comes from here)", key="text",
                           max_chars=MAX_TEXT, bind="query-params", height=90)  # fmt: skip
    second = right.text_area("Second text (the state goes here)", key="text2",
                             max_chars=MAX_TEXT, bind="query-params", height=90)  # fmt: skip
    token = st.text_input(
        "Token to score", key="token", bind="query-params",
        placeholder="what the model says after the first text",
        help="One token, such as ␣Paris (␣ is a space); its probability is drawn in every cell",
    )  # fmt: skip
    if not (first.strip() and second.strip()):
        nothing_yet("Type two texts, or take the example pair.", _line(name))
        return
    with guarded():
        _maps(PairAsk(name, first, second, choose_lens(), token))


def _line(model: str) -> str:
    """The command for an example."""
    return in_shell("lens", "pair", "--model", model, "--prompt", TEXT, "--into", OTHER)


@st.fragment
def _maps(ask: PairAsk) -> None:
    with guarded():
        metric = one_of("Metric", METRICS, key="metric")
        with st.spinner("Running the model on both texts"):
            lenses = {which: pairs.lens_of(ask, which) for which in ("first", "second")}
            _, word = pairs.scored(ask)
            special = {which: pairs.special_of(ask, which) for which in lenses}
        unknown_note(ask.model, ask.first, ask.second)
        hidden = special_toggle(special["first"] + special["second"])
        special = special if hidden else {which: [] for which in lenses}
        put = _cells(ask, lenses["first"], lenses["second"])
        alignment_shown(ask, pairs.alignment(ask))
        wide = max(len(lens.tokens) for lens in lenses.values()) > NARROW
        boxes = [st.container(), st.container()] if wide else st.columns(2)
        room = 1.0 if wide else 0.45
        chosen = {"first": (put.source, put.source_layer), "second": (put.position, put.layer)}
        keys = {"first": ("src", "src_layer"), "second": ("pos", "layer")}
        for box, which in zip(boxes, lenses, strict=True):

            def pick(x: float, y: float, names: tuple[str, str] = keys[which]) -> None:
                st.session_state[names[0]], st.session_state[names[1]] = int(x), int(y)

            with box:
                lens = grey(lenses[which], special[which])
                figure = _slim(lens.plot(metric, room=room), f"{which.title()} text", wide)
                click_map(
                    figure, pick, key=f"pair-{which}", chosen=chosen[which],
                    frame=lens.to_frame(),
                    code=python_of_grey(python_of(ask, metric, which), special[which]),
                    alt=f"Lens of the {which} text: {METRICS[metric]}",
                )  # fmt: skip
        left = max(lens.left_out for lens in lenses.values())
        st.caption(
            f"Scored in every cell: “{plain(visible(word))}”. Colours: {METRICS[metric].lower()}, "
            "one range for every text of this model; each cell says its most probable next token. "
            + (f"Only the first {MOST} tokens are shown. " if left else "")
            + ("Special tokens are left out. " if hidden else "")
            + f"Remember: {DISCLAIMER}."
        )
        _patched(ask, put, metric, wide, special["second"])
        command_line(command_of(ask, put, metric))


def _cells(ask: PairAsk, a: Any, b: Any) -> Put:
    layers = list(a.layers)
    shown = [{p: f"{p} {visible(w)}" for p, w in zip(x.positions.tolist(), x.tokens, strict=True)}
             for x in (a, b)]  # fmt: skip
    low, (s0, s1) = layers[0], pairs.start(ask)
    one, two, three, four = st.columns(4)
    with one:
        source = pick_of("From token", list(shown[0]), min(s0, len(shown[0]) - 1), key="src",
                         shown=shown[0])  # fmt: skip
    with two:
        source_layer = pick_of("From block", layers, low, key="src_layer")
    with three:
        position = pick_of("Into token", list(shown[1]), min(s1, len(shown[1]) - 1), key="pos",
                           shown=shown[1])  # fmt: skip
    with four:
        layer = pick_of("Into block", layers, low, key="layer")
    left, right = st.columns(2)
    with left:
        site = pick_of("What is put", list(SITES), "resid_post", key="what", shown=SITES)
    with right:
        strength = st.slider(
            "Strength", 0.0, 1.0, 1.0, 0.05, key="strength", bind="query-params",
            help="0 leaves the second text's own state: nothing changes",
        )  # fmt: skip
    return Put(source, source_layer, position, layer, site, float(strength))


def alignment_shown(ask: PairAsk, table: pd.DataFrame) -> None:
    """The tokens of both texts side by side, with what differs marked."""
    differ = table["same"].tolist().count(False)
    unequal = bool(table[["first token", "second token"]].isna().to_numpy().any())
    how = ("aligned by the tokens they share; a gap stands where one has more" if unequal
           else "aligned token by token")  # fmt: skip
    st.caption(f"Alignment: {len(table)} places, {differ} of them differ ({how}).")
    rows = {"first": table["first"], "second": table["second"],
            "": ["" if s else "differs" for s in table["same"]]}  # fmt: skip
    wide = pd.DataFrame(rows).T
    wide.columns = [f"{i}" for i in range(len(table))]
    show_listing(wide, alt="Tokens of both texts side by side, one column per place",
                 hide_index=False, take="pair-alignment", data=table,
                 code=python_of_call(pairs.alignment, ask))  # fmt: skip


def _slim(figure: go.Figure, title: str, wide: bool) -> go.Figure:
    """A map that shares its colour range with its neighbours."""
    heat: Any = figure.data[0] if figure.data else None
    n = 0 if heat is None else len(heat.x)
    ends = (0, 1) if heat is None else (heat.zmin, heat.zmax)
    said = f"n = 1 text, {n} tokens · colours {ends[0]:.3g} to {ends[1]:.3g}"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": said}}, margin={"l": 50, "r": 12, "t": 72}
    )
    figure.update_xaxes(title={"text": "token"}, tickangle=-60 if n > 8 else 0)
    return figure if wide else figure.update_traces(showscale=False)


def _patched(ask: PairAsk, put: Put, metric: str, wide: bool, hidden: list[int]) -> None:
    with st.spinner("Running the second text with the state put into it"):
        change = Change.of(ask, put, metric)
        checked = pairs.unchanged(ask, put)
        ends = pairs.ends(ask, put)
    boxes = [st.container(), st.container()] if wide else st.columns(2)
    ring = (put.position, put.layer)
    see = pick_see(change)

    def pick(x: float, _layer: float) -> None:
        st.session_state["see"] = int(x)

    with boxes[0]:
        lens = grey(change.patched, hidden)
        figure = change.mark(_slim(lens.plot(metric, room=1.0 if wide else 0.45),
                                   "Second text, patched", wide))  # fmt: skip
        click_map(figure, pick, key="pair-patched", frame=lens.to_frame(),
                  code=python_of_grey(python_of(ask, metric, "second", put), hidden),
                  alt=f"Lens of the patched run: {METRICS[metric]}")  # fmt: skip
    with boxes[1]:
        figure = change.mark(_slim(change.plot(), "Change: patched minus second text", True))
        click_map(figure, pick, key="pair-change", frame=change.frame,
                  code=python_of(ask, metric, "change", put),
                  alt=f"Change by the patch, centred at 0: {METRICS[metric]}")  # fmt: skip
    outside = change.outside
    st.caption(
        f"Ring: the patched cell (block {ring[1]}, token {ring[0]}). Dotted: what it can reach; "
        + ("outside it nothing changed, to the last bit. " if outside == 0 else
           f"outside it the largest change is {outside:.2g}: this model's sums are not exact. ")
        + ("Check: the second text's own state put back changes no logit, bit for bit."
           if checked == 0 else
           f"Check failed: its own state put back changes a logit by {checked:.2g}.")
    )  # fmt: skip
    _ends(ask, put, ends)
    course = course_of(ask, put, see)
    word = visible(change.second.tokens[change.second.positions.tolist().index(see)])
    show_figure(course.figure(), key="pair-course", frame=course.frame,
                code=python_of(ask, metric, "course", put, see),
                alt="Probability of the scored token over the layers, in every run",
                caption=f"At token {see} “{plain(word)}” of the second text; the first text at the "
                        "token aligned with it. n = 1 pair of texts; control: a random state of "
                        "the same length at the same cell.")  # fmt: skip


def pick_see(change: Change) -> int:
    """Which token is followed over the layers."""
    places = change.second.positions.tolist()
    shown = {p: f"{p} {visible(w)}" for p, w in zip(places, change.second.tokens, strict=True)}
    return pick_of("Follow over the layers at", places, places[-1], key="see", shown=shown)


def _ends(ask: PairAsk, put: Put, ends: pd.DataFrame) -> None:
    st.markdown("**After the last token**")
    rows = [
        {
            "run": row["run"], f"P({visible(str(row['scored']))})": row["probability"],
            "rank": row["rank"],
            "KL(second text ‖ this run) [nats]": None if np.isnan(row["kl"]) else row["kl"],
            "most probable": ", ".join(f"{visible(w)} {p:.2f}" for w, p in
                                       zip(row["says"], row["says_prob"], strict=True)),
        }
        for row in ends.to_dict("records")
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    for name in (table.columns[1], "KL(second text ‖ this run) [nats]"):
        table[name] = ["" if v is None or pd.isna(v) else f"{v:.3f}" for v in table[name]]
    show_listing(table, alt="What the model says after the last token", take="pair-ends",
                 data=ends_table(ask, put), code=python_of_call(ends_table, ask, put))  # fmt: skip
