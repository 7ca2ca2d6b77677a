"""Choose a direction, and see which latents point most nearly in it."""

from pathlib import Path

import streamlit as st

from lensbench.app.cache import facts_of, nearest_to
from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.latent_lines import nearest_line
from lensbench.app.widgets.latent_map import clickable_rows
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import directions
from lensbench.app.workflows.directions import KINDS, LATENT, TEXTS, VECTOR, WRITE, DirectionAsk
from lensbench.app.workflows.latent_page import dictionaries_of, latent_table


def nearest_board(run: Path, name: str) -> None:
    """A direction of the reader's choice, and the latents nearest to it."""
    kind = one_of("Direction", KINDS, key="direction")
    ask = _asked(run, name, kind)
    if ask is None:
        return
    found, control = nearest_to(run, name, ask)
    frame = directions.beside(found, facts_of(run, name))
    to = directions.told_of(ask)
    show_figure(directions.nearest_figure(frame, control, to), key="nearest", frame=frame,
                alt=f"cosine of the {len(frame)} latents nearest to {to}",
                code=directions.python_of(run, name, ask),
                caption=f"n = {len(frame)} latents, by signed cosine. Dashed, the control: the "
                f"largest cosine of a random direction, mean of 256: {control:.3f}.")  # fmt: skip
    st.caption("Click a row to open its latent.")
    clickable_rows(run, name, frame, key="nearest", alt=f"latents nearest to {to}")
    nearest_line(run, name, ask)


def _asked(run: Path, name: str, kind: str) -> DirectionAsk | None:
    if kind == LATENT:
        return _latent(run, name)
    if kind == TEXTS:
        left, right = st.columns(2)
        one = left.text_area("Text", key="one", bind="query-params", height=80,
                             max_chars=directions.LONGEST)  # fmt: skip
        other = right.text_area("less the text", key="other", bind="query-params", height=80,
                                max_chars=directions.LONGEST)  # fmt: skip
        st.caption("Mean activation at the dictionary's site over the tokens of each, the first "
                   "token left out; the model is run once per text.")  # fmt: skip
        return DirectionAsk(TEXTS, one=one, other=other) if one and other else None
    if kind == VECTOR:
        sent = st.file_uploader(
            "A probe's weights, or any vector", ["json", "npy", "safetensors", "txt", "csv"],
            key="vector", help="One vector as long as the dictionary's d_model",
        )  # fmt: skip
        if sent is None:
            return None
        return DirectionAsk(VECTOR, file=sent.name, content=sent.getvalue())
    token = st.text_input(
        "Token", key="token", bind="query-params", placeholder="␣Paris, or #17 for an id",
        help="One token of the model's vocabulary; write ␣ for a space that belongs to it",
    )  # fmt: skip
    told = "its logit against the mean logit, on the direct path, the final norm folded in"
    st.caption(f"The direction that raises {told}." if kind == WRITE
               else "The row of the token embedding, without positions.")  # fmt: skip
    return DirectionAsk(kind, token=token) if token else None


def _latent(run: Path, name: str) -> DirectionAsk | None:
    left, right = st.columns(2)
    with left:
        of = pick_of("Of dictionary", dictionaries_of(run), name, key="of")
    n = len(latent_table(run, of))
    latent = right.number_input("Latent", 0, n - 1, None, key="latent", bind="query-params",
                                placeholder="Number")  # fmt: skip
    if latent is None:
        st.info("Give the number of a latent to see which others point its way.")
        return None
    return DirectionAsk(LATENT, latent=int(latent), of="" if of == name else of)
