"""The decoder lens of typed sentences: what is written from every encoder layer, and scores."""

from typing import Any

import streamlit as st

from lensbench.app.widgets.figures import show_figure
from lensbench.app.widgets.listing import show_listing
from lensbench.app.widgets.states import guarded, plain
from lensbench.app.widgets.toggle import one_of, pick_of
from lensbench.app.workflows import lens_decoder as decoder
from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.lens_decoder import MOST, DecoderAsk
from lensbench.app.workflows.lenses import MAX_TEXT


@st.fragment
def show_decoder(model: str, text: str) -> None:
    """Draw the outputs of one sentence, and a metric over the layers beside its controls."""
    right = st.text_area(
        "Right answers (optional, one in a line)", key="right", max_chars=MAX_TEXT, height=80,
        bind="query-params", placeholder="With them, every layer is scored token by token",
        help=f"The text above has one sentence in a line, at most {MOST}",
    )  # fmt: skip
    with guarded():
        ask = DecoderAsk(model, text, right or "")
        with st.spinner("The decoder reads every layer of the encoder"):
            lens = decoder.decoder_for(ask)
        n = len(lens.sources)
        shown = {i: f"{i + 1}: {source}" for i, source in enumerate(lens.sources)}
        one = pick_of("Sentence", list(shown), 0, key="sentence", shown=shown) if n > 1 else 0
        _said(ask, lens, one)
        metrics = decoder.metrics_of(lens)
        if st.session_state.get("measure") not in (None, *metrics):
            # Chosen while there were right answers. Set: a browser goes on showing what it had.
            st.session_state["measure"] = next(iter(metrics))
        metric = one_of("Metric", metrics, key="measure")
        controls = [decoder.NAMES[s].removeprefix("control: ") for s in lens.states[1:]]
        interval = "bands: 95 % over sentences. " if n > 1 else ""
        more = "" if n > 1 else (" With a second sentence, the states of another one are a "
                                 "control, too.")  # fmt: skip
        show_figure(
            decoder.figure_of(ask, metric), key="decoder-course",
            frame=decoder.frame_of(lens, metric), code=decoder.python_of(ask, metric),
            file=f"lens-decoder-{metric}", provenance=decoder.model_told(ask),
            alt=f"{metrics[metric]} over the encoder layers that the decoder reads",
            caption=f"n = {n} {'sentence' if n == 1 else 'sentences'}; {interval}"
                    f"Controls: {', '.join(controls)}.{more} Remember: {decoder.REMINDER}.",
        )  # fmt: skip


def _said(ask: DecoderAsk, lens: Any, sentence: int) -> None:
    said = decoder.said_by(lens, sentence)
    first = int(lens.first_equal[sentence])
    st.markdown(f"**What the decoder writes from each layer; first as the model itself: layer "
                f"{first}**")  # fmt: skip
    right = f"Right: {plain(lens.targets[sentence])}" if lens.targets else ""
    show_listing(
        said, alt="What the decoder writes from every layer", caption=right, take="decoder-said",
        file="lens-decoder-texts",
        code=python_of(decoder.said_by, Call(decoder.decoder_for, ask), sentence),
    )  # fmt: skip
