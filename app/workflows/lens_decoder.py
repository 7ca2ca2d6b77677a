"""The Lens page of an encoder-decoder: what the decoder says when it reads an earlier layer."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import Shelf, hold_model, running
from lensbench.errors import ConfigError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.probes.lenses.decoder.result import DecoderLens

MOST, NEW = 16, 48
"""Sentences of a page, and tokens of an output."""
METRICS = {
    "kl_to_final": "KL(model ‖ this layer)",
    "token_accuracy": "Share of tokens that are right",
    "agreement": "Share of tokens as the model's own",
    "cross_entropy": "Cross-entropy of the right token",
    "exact_match": "Share of sentences that are right",
    "same_output": "Same text as the model's own",
}
NAMES = {"model": "the states of that layer", "shuffled": "control: another sentence's states",
         "reinitialised": "control: encoder re-initialised"}  # fmt: skip
REMINDER = (
    "the decoder was trained on the last layer only, so a poor score at an earlier one says that "
    "it cannot read that layer, not that the layer knows nothing"
)


@dataclass(frozen=True)
class DecoderAsk:
    """An encoder-decoder, sentences (a line each), and the right answers where they are known."""

    model: str
    text: str
    right: str = ""
    """A line per sentence; empty where nothing is to be scored against."""

    def __post_init__(self) -> None:
        """As many answers as sentences, and not too many."""
        n, answers = len(lines_of(self.text)), len(lines_of(self.right))
        if not 1 <= n <= MOST:
            raise ConfigError(f"give 1 to {MOST} sentences, one in a line; got {n}")
        if answers and answers != n:
            raise ConfigError(f"{answers} right answers for {n} sentences; give one in a line for "
                              "each, or none")  # fmt: skip


_read: "Shelf[DecoderLens]" = Shelf(8)


def lines_of(text: str) -> list[str]:
    """The lines that say something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def is_encoder_decoder(name: str) -> bool:
    """Whether the model of that name hands states of an encoder to a decoder.

    Raises:
        MissingDataError, DamagedDataError: it cannot be opened.
    """
    return hold_model(name).model.kind == "encoder-decoder"


def decoder_for(ask: DecoderAsk) -> "DecoderLens":
    """The decoder lens with its controls, run once for a text.

    Raises:
        ConfigError: a model with one stack only.
    """

    def run() -> "DecoderLens":
        from lensbench import probes

        with running(ask.model) as model:
            return probes.decoder_lens(model, lines_of(ask.text), lines_of(ask.right) or None,
                                       max_new_tokens=NEW)  # fmt: skip

    return _read.get((ask, hold_model(ask.model).model.card.fingerprint), run)


def metrics_of(lens: "DecoderLens") -> dict[str, str]:
    """What was measured, in words."""
    return {name: told for name, told in METRICS.items() if name in lens.metrics}


def frame_of(lens: "DecoderLens", metric: str) -> pd.DataFrame:
    """One row per layer and kind of states: the mean over sentences with its 95 % interval."""
    whole = lens.to_frame()
    part = whole.loc[whole["metric"] == metric].drop(columns=["metric", "task"])
    part["states"] = [NAMES.get(s, s) for s in part["states"]]
    return part.rename(columns={"value": metric}).reset_index(drop=True)


def figure_of(ask: DecoderAsk, metric: str) -> "go.Figure":
    """One metric over the encoder's layers, beside its controls.

    Raises:
        ConfigError: as :func:`decoder_for`.
    """
    from lensbench.plots import lines
    from lensbench.probes.lenses.decoder.result import UNITS

    lens = decoder_for(ask)
    frame = frame_of(lens, metric)
    frame.attrs["units"] = {metric: UNITS[metric]}
    n = len(lens.tasks)
    low, high = ("low", "high") if n > 1 else (None, None)
    figure = lines(
        frame, x="layer", y=metric, color="states", low=low, high=high, height=360,
        title=f"Decoder lens: {METRICS[metric]}",
        subtitle=f"n = {n} {'sentence' if n == 1 else 'sentences'}; layer 0 is the embeddings",
        labels={"layer": "encoder layer that the decoder reads"},
    )  # fmt: skip
    figure.update_yaxes(title={"text": UNITS[metric]})
    if UNITS[metric].startswith("share"):
        figure.update_yaxes(range=[-0.03, 1.03])
    else:
        figure.update_yaxes(rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "y": -0.25, "title": {"text": ""}})
    return figure.update_xaxes(dtick=1)


def said_by(lens: "DecoderLens", sentence: int) -> pd.DataFrame:
    """What the decoder writes from every layer of one sentence, the last layer first."""
    frame = lens.texts(sentence).iloc[::-1].reset_index(drop=True)
    last = len(lens.layers) - 1
    named = {lens.layers[0]: "embeddings", lens.layers[last]: "the model itself"}
    frame.insert(1, "which is", [named.get(int(n), "") for n in frame["layer"]])
    frame["same_as_last"] = np.where(frame["same_as_last"], "same", "")
    return frame.rename(columns={"same_as_last": "as the model"})


def model_told(ask: DecoderAsk) -> str:
    """Which model was run."""
    card = hold_model(ask.model).model.card
    return f"{card.name} {card.fingerprint}"


def python_of(ask: DecoderAsk, metric: str) -> str:
    """Code that draws the same figure in a notebook."""
    given = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in vars(ask).items() if v)
    return "\n".join([
        "from lensbench.app.workflows.lens_decoder import DecoderAsk, decoder_for, figure_of",
        f"ask = DecoderAsk({given})",
        "decoder_for(ask).texts(0)  # a DecoderLens, by probes.decoder_lens",
        f"figure_of(ask, {metric!r})",
    ])  # fmt: skip
