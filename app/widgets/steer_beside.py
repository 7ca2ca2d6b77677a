"""A prompt continued clean, steered and along a random direction, side by side."""

from dataclasses import replace
from html import escape

import streamlit as st

from lensbench import plots
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.model_choice import unknown_note
from lensbench.app.widgets.states import plain
from lensbench.app.widgets.toggle import pick_of
from lensbench.app.widgets.token_diff import token_diff
from lensbench.app.workflows import steering_beside as steering
from lensbench.app.workflows.copying import python_of
from lensbench.app.workflows.latent_steering import MOST_NEW, RANDOM
from lensbench.app.workflows.steering_beside import STRENGTHS, WHERE, BesideAsk, Steered

PROMPT = "I think the knife"
TITLES = {"clean": "clean", "steered": "steered", "random": "random direction"}


def steer_beside(ask: BesideAsk) -> None:
    """Texts and divergence of what :func:`ask_prompt` gave."""
    if not ask.prompt.strip():
        st.info("Type a prompt; the model continues it.")
        return
    with st.spinner("The model continues the prompt three times"):
        found = steering.steered(ask)
    unknown_note(ask.model, ask.prompt)
    st.caption(unit_told(ask.where, found.unit, found.site))
    _strip(found)
    told = (
        "Strength 0: the model runs as it is; its logits are bit-identical."
        if ask.strength == 0 else
        f"Added: a vector of length {found.length:.4g} at {found.site}; the random direction is as "
        "long and continues from the same seed. Bold and underlined: not in the clean text."
    )  # fmt: skip
    token_diff({n: found.words[n] for n in TITLES}, {n: found.ids[n] for n in TITLES}, TITLES,
               take="steer-said", caption=plain(told),
               code=python_of(steering.steered, ask, then=".frame"))  # fmt: skip
    frame = steering.kl_frame(found)
    show_figure(
        steering.kl_figure(frame), key="steer-kl", frame=frame,
        code=steering.python_of(ask, found.unit),
        alt="Divergence from the clean model at every step",
        caption=f"n = {len(found.kl)} steps along the clean text. Control: {RANDOM} random "
                "directions of equal length.",
    )  # fmt: skip


def unit_told(where: str, unit: float, site: str) -> str:
    """What strength 1 is, with its number."""
    of = "all tokens of the prompt" if where == "all" else "the prompt's last token"
    length = "median length of the state at" if where == "all" else "length of the state at"
    return f"Strength 1 is a step of length {unit:.4g} at {site}: the {length} {of}."


def ask_prompt(ask: BesideAsk) -> BesideAsk:
    """The direction with what is typed and chosen here: prompt, strength, tokens, seed."""
    prompt = st.text_area("Prompt", PROMPT, key="prompt", bind="query-params", height=68,
                          max_chars=steering.LONGEST)  # fmt: skip
    left, right = st.columns([3, 2])
    strength = left.select_slider(
        "Strength, in lengths of the state (doubling steps; 0 changes nothing)", STRENGTHS, 1.0,
        key="strength", bind="query-params", format_func=lambda s: f"{s:+g}" if s else "0",
    )  # fmt: skip
    with right:
        where = pick_of("Steered tokens", list(WHERE), "after", key="where", shown=WHERE)
    with st.expander("Advanced: length, temperature, seed"):
        one, two, three = st.columns(3)
        new = one.number_input("New tokens", 1, MOST_NEW, 20, key="new", bind="query-params")
        heat = two.number_input("Temperature", 0.0, 5.0, 0.0, 0.1, key="heat", bind="query-params",
                                help="0: always the most probable token")  # fmt: skip
        seed = three.number_input("Seed", 0, 10_000, 0, key="seed", bind="query-params",
                                  help="The same for every continuation")  # fmt: skip
    return replace(ask, prompt=prompt or "", strength=float(strength), where=where,
                   new_tokens=int(new), temperature=float(heat), seed=int(seed))  # fmt: skip


def _strip(found: Steered) -> None:
    """The prompt, with the tokens that are steered framed."""
    notes = [" · steered" if on else " · not steered" for on in found.on]
    strip = plots.token_strip(list(found.prompt), [float(on) for on in found.on], largest=3.0,
                              notes=notes, label="prompt, steered tokens framed")  # fmt: skip
    frame = '.lb-on .t[title$="· steered"]{outline:1px solid currentColor}'
    n = sum(found.on)
    said = f"prompt ({n} of {len(found.on)} steered, framed)" if n else "prompt (no token steered)"
    st.html(f"<style>{frame}</style><div class='lb-row lb-on'><span class='lb-said'>{escape(said)}"
            f"</span>{strip}</div>")  # fmt: skip
