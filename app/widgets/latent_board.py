"""A latent's dashboard: a text to test, contexts by strength, histogram, logit effects."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from lensbench import plots
from lensbench.app.cache import board, latent_table, tested
from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.workflows.latent_figures import (
    effects_figure,
    effects_frame,
    histogram_figure,
    python_of,
    random_effect,
)
from lensbench.app.workflows.latent_page import (
    Passage,
    bands_of,
    context_frame,
    label_line,
    store_of,
)
from lensbench.plots.tokens import CSS

LINE = """
.lb-line{display:flex;gap:12px}
.lb-times{white-space:nowrap;opacity:.6;font-size:13px;line-height:1.9}
.lb-value{min-width:4ch;text-align:right;opacity:.6;font-size:13px;line-height:1.9}
"""
TEXT = "Alice the baker lives in Lima ."
"""A text to begin with."""


def latent_board(run: Path, name: str, latent: int) -> None:
    """Everything known of one latent of a dictionary."""
    store = store_of(run, name, root())
    found, words = board(run, name, latent, store)
    i = found.index(latent)
    one, two = st.columns(2)
    one.metric(f"fires on, of {found.n_tokens:,} stored tokens",
               f"{100 * found.density[i]:.3f} %", border=True)  # fmt: skip
    two.metric("largest activation", f"{found.max_activation[i]:.4g}", border=True)
    st.caption(plain(f"Site {found.site}. {label_line(latent_table(run, name), latent)}"))
    _own_text(run, name, latent, store, float(found.max_activation[i]))
    _contexts(found, latent, words)
    left, right = st.columns(2)
    with left:
        figure, frame = histogram_figure(found, latent)
        show_figure(figure, key="histogram", frame=frame,
                    code=python_of(run, name, latent, store),
                    alt=f"histogram of the non-zero activations of latent {latent}",
                    caption=f"n = {int(np.asarray(frame['tokens']).sum()):,} of "
                    f"{found.n_tokens:,} stored tokens; zeros are left out.")  # fmt: skip
    with right:
        _effects(found, latent, words, python_of(run, name, latent, store, "effects"))


def _own_text(run: Path, name: str, latent: int, store: Path, largest: float) -> None:
    st.subheader("Test on your own text")
    text = st.text_area("Text", TEXT, key="text", bind="query-params", height=70, max_chars=2000)
    if not text:
        return
    with guarded():
        frame = tested(run, name, latent, store, str(text))
        show_strips([Passage(tuple(frame["token"]), tuple(frame["activation"]), None, largest)])
        top = float(np.asarray(frame["activation"]).max())
        share = f", {100 * top / largest:.0f} % of its largest in the store" if largest else ""
        said = f"Largest activation here: {top:.4g}{share}." if top else "It does not fire here."
        st.caption(f"{said} The model was run once on {len(frame)} tokens.")
        take_away(frame, key="own-text")


def _contexts(found: Any, latent: int, words: dict[int, str]) -> None:
    st.subheader("Contexts by strength of activation")
    st.caption(
        "The strongest, then samples of each quarter of the rest. Look at the lower ones before "
        "naming a latent: the strongest alone flatter every story. Outlined: the token that fires; "
        "x2: twice the same words."
    )
    for band, contexts in bands_of(found, latent, words).items():
        st.markdown(f"**{band}** of the activations" if "%" in band else f"**{band}**")
        show_strips(contexts)
    take_away(context_frame(found, latent, words), key="contexts")


def _effects(found: Any, latent: int, words: dict[int, str], code: str) -> None:
    frame: pd.DataFrame = effects_frame(found, latent, words)
    if frame.empty:
        figure = plots.empty_figure("no logit effects", next_step=found.effects_note)
        show_figure(figure, key="effects", alt="no logit effects")
        return
    control = "; ".join(f"{k}: {v:.3g}" for k, v in found.controls.values.items())
    show_figure(effects_figure(frame, random_effect(found)), key="effects", frame=frame, code=code,
                alt=f"tokens that latent {latent} promotes and suppresses",
                caption=f"{found.effects_note}. n = {len(frame)} tokens of the vocabulary, both "
                f"ends. Dashed, the control: {control}.")  # fmt: skip


def show_strips(passages: list[Passage]) -> None:
    """Tokens shaded by activation, one passage a line."""
    st.html(f"<style>{CSS}{LINE}</style>{lines_of(passages)}")


def lines_of(passages: list[Passage]) -> str:
    """HTML of the passages; ``token_strip`` makes every token inert."""
    return "".join(
        f"<div class=lb-line><span class=lb-value>{_at_focus(p)}</span>"
        f"{plots.token_strip(p.words, p.values, largest=p.largest, focus=p.focus)}"
        f"{_times(p)}</div>"
        for p in passages
    )


def _times(passage: Passage) -> str:
    return f"<span class=lb-times>x{passage.times}</span>" if passage.times > 1 else ""


def _at_focus(passage: Passage) -> str:
    return "" if passage.focus is None else escape(f"{passage.values[passage.focus]:.3g}")
