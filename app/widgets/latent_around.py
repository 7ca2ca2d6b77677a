"""What a latent writes, and which latents go with it."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from lensbench import plots
from lensbench.app.cache import all_effects, nearest_to, together, tokens_written
from lensbench.app.state import root
from lensbench.app.widgets.figures import show_figure, take_away
from lensbench.app.widgets.latent_lines import nearest_line
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded
from lensbench.app.workflows import latent_related
from lensbench.app.workflows.copying import python_of as call
from lensbench.app.workflows.directions import LATENT, DirectionAsk
from lensbench.app.workflows.latent_code import all_written_code, pointing_code, written_code
from lensbench.app.workflows.latent_figures import effects_figure, effects_frame, random_effect
from lensbench.app.workflows.latent_related import all_effects_figure
from lensbench.errors import LensbenchError


def logits_part(
    run: Path, name: str, latent: int, store: Path, found: Any, words: dict[int, str]
) -> None:
    """Tokens at both ends of its logit effects, and the effects on the whole vocabulary."""
    frame: pd.DataFrame = effects_frame(found, latent, words)
    if frame.empty:
        figure = plots.empty_figure("no logit effects", next_step=found.effects_note)
        show_figure(figure, key="effects", alt="no logit effects")
        return
    left, right = st.columns(2)
    control = "; ".join(f"{k}: {v:.3g}" for k, v in found.controls.values.items())
    most = random_effect(found)
    with left:
        show_figure(effects_figure(frame, most), key="effects", frame=frame,
                    code=written_code(run, name, latent, store, control=most == most),
                    alt=f"tokens that latent {latent} promotes and suppresses",
                    caption=f"{found.effects_note}. n = {len(frame)} tokens of the vocabulary, "
                    f"both ends. Dashed, the control: {control}.")  # fmt: skip
    with right, guarded():
        every = all_effects(run, name, latent)
        n = len(every.loc[every["tokens"] == 1])
        show_figure(all_effects_figure(every), key="all-effects", frame=every,
                    code=all_written_code(run, name, latent),
                    alt=f"histogram of the logit effects of latent {latent} on every token",
                    caption=f"n = {n:,} tokens of the vocabulary, beside 16 random directions: a "
                    "latent that writes towards few tokens has a longer tail.")  # fmt: skip


def related_part(run: Path, name: str, latent: int, store: Path) -> None:
    """Latents that fire with it, and decoder rows that point its way."""
    left, right = st.columns(2)
    ask = DirectionAsk(LATENT, latent=latent)
    with left, guarded():
        st.markdown("**Fire where it fires**")
        frame, chance = together(run, name, latent, store)
        n = int(frame.attrs["n"])
        _clickable(run, name, frame, key="together", alt=f"latents that fire with {latent}")
        st.caption(f"Correlation of activations over n = {n:,} stored tokens. Control, the largest "
                   "correlation with its activations turned round the text at random: "
                   f"{chance:.3f}. Click a row to open it.")  # fmt: skip
        take_away(
            frame,
            key="together",
            alt=f"latents that fire with {latent}",
            code=call(latent_related.together, run, name, latent, store, then="[0]"),
        )
    with right, guarded():
        st.markdown("**Point its way**")
        frame, control = nearest_to(run, name, ask)
        _clickable(run, name, frame.head(12).drop(columns="rank"), key="pointing",
                   alt=f"decoder rows nearest to {latent}")  # fmt: skip
        st.caption("Cosine of decoder rows. Control, the largest cosine of a random direction: "
                   f"{control:.3f}.")  # fmt: skip
        take_away(frame, key="pointing", alt=f"decoder rows nearest to {latent}",
                  code=pointing_code(run, name, latent, len(frame)))  # fmt: skip
        about = {"run": run.relative_to(root()).as_posix(), "dictionary": name,
                 "show": "Nearest latents", "latent": latent}  # fmt: skip
        st.markdown(f"[More, with other directions](directions?{urlencode(about)})")
    nearest_line(run, name, ask)


def words_written(run: Path, name: str) -> list[str]:
    """The tokens each latent writes towards, empty where that is not known."""
    try:
        return tokens_written(run, name)[0]
    except LensbenchError:  # a crosscoder; its board says why
        return []


def _clickable(run: Path, name: str, frame: pd.DataFrame, *, key: str, alt: str) -> None:
    """Rows that open their latent, with what each writes towards."""
    written = words_written(run, name)
    shown = frame.round(3)
    if any(written):
        shown["writes towards"] = [written[int(n)] for n in frame["latent"]]
    picked = show_listing(shown, pick=f"{key}-rows", alt=alt)
    open_row(frame, () if picked is None else (picked,), key=key)


def open_row(frame: pd.DataFrame, picked: tuple[int, ...], *, key: str) -> None:
    """Open the latent of a row that was clicked just now; a selection outlives a redrawn page."""
    new = picked != st.session_state.get(f"seen-{key}", ())
    st.session_state[f"seen-{key}"] = picked
    if new and picked and picked[0] < len(frame):
        latent = int(frame["latent"].iloc[picked[0]])
        st.session_state["to-latent"] = st.session_state["to-open"] = latent
        st.rerun()
