"""Steer with a latent, and verify that the model uses it: each beside its control."""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from lensbench import plots
from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.latent_lines import steer_line
from lensbench.app.widgets.latent_strips import LINE
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.workflows import latent_steering as steering
from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.latent_code import steer_code
from lensbench.app.workflows.latent_effect import latent_effect
from lensbench.app.workflows.latent_page import make_board
from lensbench.app.workflows.latent_steering import STRENGTHS, WHERE, Beside, LatentSteer
from lensbench.plots.tokens import CSS

PROMPT = "Alice the baker lives in"
TITLES = {"clean": "clean", "steered": "steered", "random": "random direction"}


def steer_part(run: Path, name: str, latent: int, largest: float) -> None:
    """A prompt continued with more or less of the latent."""
    if not largest:
        st.info("A dead latent has no largest activation to count strengths in; choose another.")
        return
    ask = _asked(run, name, latent, largest)
    if ask is None:
        return
    with st.spinner("Running the model"):
        found = steering.beside(ask)
    _texts(found, ask)
    frame = steering.kl_frame(found)
    show_figure(steering.kl_figure(frame), key="steer-kl", frame=frame,
                code=steer_code(ask),
                alt=f"divergence per step of steering with latent {latent}",
                caption=f"n = {len(found.kl)} steps along the clean text. Control: "
                f"{steering.RANDOM} random directions of equal length.")  # fmt: skip
    steer_line(run, name, latent, ask.prompt, ask.new_tokens, ask.seed)


def _asked(run: Path, name: str, latent: int, largest: float) -> LatentSteer | None:
    prompt = st.text_area("Prompt", PROMPT, key="prompt", bind="query-params", height=68,
                          max_chars=2000)  # fmt: skip
    left, right = st.columns([3, 2])
    strength = left.select_slider(
        "Strength, in largest activations of this latent (doubling steps; 0 changes nothing)",
        STRENGTHS, 1.0, key="strength", bind="query-params", format_func=lambda s: f"{s:+g}x"
        if s else "0",
    )  # fmt: skip
    with right:
        where = pick_of("Steered tokens", list(WHERE), steering.ALL, key="where", shown=WHERE)
    with st.expander("Length, temperature, seed"):
        one, two, three = st.columns(3)
        new = one.number_input("New tokens", 1, steering.MOST_NEW, steering.NEW, key="new",
                               bind="query-params")  # fmt: skip
        heat = two.number_input("Temperature", 0.0, 5.0, 0.0, 0.1, key="heat", bind="query-params",
                                help="0: always the most probable token")  # fmt: skip
        seed = three.number_input("Seed", 0, 10_000, 0, key="seed", bind="query-params",
                                  help="The same for every continuation")  # fmt: skip
    if not prompt or not prompt.strip():
        st.info("Type a prompt; the model continues it.")
        return None
    return LatentSteer(str(run), name, latent, prompt, largest, float(strength), where, int(new),
                       float(heat), int(seed))  # fmt: skip


def _texts(found: Beside, ask: LatentSteer) -> None:
    lines = "".join(
        f"<div class=lb-line><span class=lb-name>{escape(TITLES[name])}</span>"
        f"{_strip(found, name)}</div>"
        for name in TITLES
    )
    own = ".lb-name{min-width:9em;opacity:.75;font-size:13px;line-height:1.9}"
    st.html(f"<style>{CSS}{LINE}{own}</style>{lines}")
    differ = sum(found.changed("steered")), len(found.ids["steered"])
    told = (
        "Strength 0: the model runs as it is; its logits are bit-identical."
        if found.identical
        else f"{differ[0]} of {differ[1]} steered tokens are not in the clean text (shaded). "
        f"Added: a vector of length {found.length:.4g} at {found.site}, "
        f"{WHERE[ask.where].lower()}{', BOS included' if ask.where == steering.ALL else ''}; the "
        "random direction is as long and continues from the same seed."
    )
    st.caption(plain(told))
    take_away(found.frame, key="steer-said", alt="continuations, token by token",
              code=python_of(steering.beside, ask, then=".frame"))  # fmt: skip
    about = {"run": Path(ask.run).relative_to(root()).as_posix(), "dictionary": ask.name,
             "latent": ask.latent, "prompt": ask.prompt, "doses": "true"}  # fmt: skip
    st.markdown(f"[Dose curve of this latent on the page Steering](steering?{urlencode(about)})")


def _strip(found: Beside, name: str) -> str:
    values = [float(c) for c in found.changed(name)]
    notes = [" · not in the clean text" if v else "" for v in values]
    return plots.token_strip(found.words[name], values, largest=2.0, notes=notes,
                             label=f"{TITLES[name]} continuation")  # fmt: skip


def verify_part(run: Path, name: str, latent: int, store: Path, found: Any) -> None:
    """Take the latent out of its strongest contexts, beside another active latent."""
    st.caption("Takes the latent's contribution out where it fires most, at that token alone, and "
               "looks at the loss of the token that follows. Control: another latent that is "
               "active at the same token.")  # fmt: skip
    about = (str(run), name, latent, str(store))
    if st.button("Verify by intervention", key="verify-own", help="Runs the model per context"):
        with guarded(), st.spinner("Running the model on the strongest contexts"):
            effect = latent_effect(run, name, latent, store, found)
            st.session_state["verified"] = (about, effect)
    asked, effect = st.session_state.get("verified", (None, None))
    if asked != about or effect is None:
        return
    st.markdown(plain(effect.verdict))
    one, two = st.columns(2)
    one.metric("Loss of the next token without it", f"{effect.own.mean:+.3g} nats", border=True)
    two.metric("Without another active latent", f"{effect.control.mean:+.3g} nats", border=True)
    low, high = effect.difference.low, effect.difference.high
    st.caption(plain(f"Means over n = {effect.own.n} contexts. Difference "
                     f"{effect.difference.mean:+.3g} nats, 95 % interval over documents "
                     f"[{low:+.3g}, {high:+.3g}]. Edit at {effect.site}."))  # fmt: skip
    shown = effect.frame.round(4)
    for column in ("token", "next token"):
        shown[column] = [plots.visible(str(t)) for t in shown[column]]
    board = Call(make_board, run, name, latent, store)
    show_listing(shown, alt="contexts with the loss of their next token", take="verify-own",
                 data=effect.frame, code=python_of(latent_effect, run, name, latent, store, board,
                                                   then=".frame"))  # fmt: skip
