"""The Lens page beyond the stream: what blocks and single components write, read on one text.

One run of the model per text, of a store's own token ids where it is a stored sequence. What was
read is kept under small keys; a click on a cell, or another metric, runs nothing.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.lenses import LensAsk
from lensbench.app.workflows.live import Shelf, hold_model, hold_store, store_version
from lensbench.app.workflows.sequences import model_name, model_of
from lensbench.errors import ConfigError
from lensbench.probes.lenses.marked import marked

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.app.workflows.live import HeldModel
    from lensbench.probes.lenses.readings import SiteLens
    from lensbench.tokens import Tokens

COMPONENTS = "components"
SITES = {
    "attn_out": "attn_out: what attention adds",
    "mlp_out": "mlp_out: what the MLP adds",
    "resid_mid": "resid_mid: the stream between the two",
}
METRICS = {
    "target_rank": "Rank of the next token",
    "target_prob": "Probability of the next token",
    "top_prob": "Probability of the best token",
    "entropy": "Entropy",
    "kl_to_final": "KL(final ‖ this layer)",
}
UNITS = {"target_rank": "log10 of the rank", "entropy": "nats",
         "kl_to_final": "KL(final ‖ this layer) [nats]"}  # fmt: skip
CELLS, MOST_ROWS = 600, 40
"""Cells up to which each says a word, and rows that a page shows without choosing a block."""
LEVEL = 1e-4
"""How far above 1 in ``d_vocab`` the best token must be; below it is rounding."""


@dataclass(frozen=True)
class PlacesAsk:
    """A text of the page Lens, and where it is read: a site's name, or ``components``."""

    text: LensAsk
    where: str
    norm: str = "own"
    """What is added is normed by itself (``own``) or by the full state's denominator (``held``)."""

    def __post_init__(self) -> None:
        """Known names only."""
        known = (COMPONENTS, *SITES)
        if self.where not in known:
            raise ConfigError(f"a place is one of {', '.join(known)}; got {self.where!r}")


_read: "Shelf[SiteLens]" = Shelf(12)


def places_for(ask: PlacesAsk) -> "SiteLens":
    """The lens at every place of the text's (first, or surrounding) tokens.

    Raises:
        ConfigError: a model that predicts no next token, or whose heads cannot be parted.
        ModelError: the stream is not the sum of its parts on this model.
        UnknownNameError: no such site in this model.
        MissingDataError, MismatchError: as :func:`lensbench.app.workflows.lenses.lens_for`.
    """
    held = held_of(ask.text)
    store = store_version(ask.text.store) if ask.text.store else ()
    key = (ask, store, held.model.card.fingerprint)
    return _read.get(key, lambda: _run(ask, held))


def held_of(text: LensAsk) -> "HeldModel":
    """The model of a typed text, or the very one behind a store.

    Raises:
        MissingDataError, MismatchError: it cannot be found, or has other weights now.
    """
    return model_of(hold_store(text.store)) if text.store else hold_model(text.model)


def _run(ask: PlacesAsk, held: "HeldModel") -> "SiteLens":
    from lensbench import probes

    with held.lock:
        model = held.model
        if model.kind == "encoder-decoder":
            raise ConfigError(f"{model.card.name} has an encoder and a decoder, and this lens "
                              "reads a model with one stack; choose the decoder lens")  # fmt: skip
        tokens, first = tokens_of(ask.text, held)
        if ask.where == COMPONENTS:
            found = probes.component_lens(model, tokens, k=ask.text.k)
        else:
            norm = "held" if ask.norm == "held" else "own"
            found = probes.site_lens(model, tokens, ask.where, k=ask.text.k, norm=norm)
    return _silent(columns_of(found, first, first + ask.text.max_tokens), model.card.d_vocab)


def tokens_of(text: LensAsk, held: "HeldModel") -> tuple["Tokens", int]:
    """The tokens that are run, and the first that is shown."""
    from lensbench.tokens import Tokens

    if not text.store:
        return held.model.tokens(text.text), 0
    found = hold_store(text.store).sequence_of(text.row)
    real = np.flatnonzero(found.tokens.real[0].numpy())
    stored = np.flatnonzero(found.rows[0] >= 0)
    here = int(np.flatnonzero(found.rows[0] == text.row)[0])
    size = min(text.max_tokens, len(stored))
    near = int(np.flatnonzero(stored == here)[0])
    first = int(stored[min(max(0, near - size // 2), len(stored) - size)])
    return Tokens(found.tokens.ids[:, real]), int(np.searchsorted(real, first))


def _silent(lens: "SiteLens", d_vocab: int) -> "SiteLens":
    """NaN where a place writes nothing that tells tokens apart: the best of equals is no answer."""
    nothing = lens.top_prob[:, :, 0] * d_vocab < 1 + LEVEL
    values, prob = lens.values.copy(), lens.top_prob.copy()
    values[:, nothing], prob[nothing] = np.nan, np.nan
    return replace(lens, values=values, top_prob=prob)


def columns_of(lens: "SiteLens", first: int, stop: int) -> "SiteLens":
    """The tokens ``first`` to ``stop - 1`` of a lens."""
    part = slice(first, stop)
    return replace(
        lens, positions=lens.positions[part], tokens=lens.tokens[part], targets=lens.targets[part],
        top=lens.top[:, part], top_ids=lens.top_ids[:, part], top_prob=lens.top_prob[:, part],
        values=lens.values[:, :, part],
    )  # fmt: skip


def blocks_of(lens: "SiteLens") -> list[str]:
    """What a reader may look at: all of it, or the components of one block."""
    layers = [str(n) for n in sorted(set(lens.layers)) if n >= 0]
    return layers if len(lens.places) > MOST_ROWS else ["all", *layers]


def frame_of(lens: "SiteLens", block: str = "all") -> pd.DataFrame:
    """One row per place and token, as it is drawn; ranks as their log10 too."""
    frame = lens.to_frame()
    if block != "all":
        frame = frame.loc[frame["layer"] == int(block)].reset_index(drop=True)
    frame["place"] = [_named(p) for p in frame["place"]]
    frame["log10_target_rank"] = np.log10(frame["target_rank"])
    return frame


def _named(place: str) -> str:
    """``blocks.3.attn_out`` as it stands beside a row."""
    return place.replace("blocks.", "L").replace(".", " ")


def figure_of(ask: PlacesAsk, metric: str, block: str = "all") -> "go.Figure":
    """Heat map of one metric over places and tokens; one colour range for every text of a model.

    Raises:
        ConfigError: no such metric.
    """
    from lensbench.plots import heatmap, visible

    if metric not in METRICS:
        raise ConfigError(f"a metric is one of {', '.join(METRICS)}; got {metric!r}")
    lens, d_vocab = places_for(ask), held_of(ask.text).model.card.d_vocab
    frame = frame_of(lens, block)
    value = "log10_target_rank" if metric == "target_rank" else metric
    tokens, rows = lens.tokens, frame.drop_duplicates("order")
    letters = max(2, min(8, 115 // max(len(tokens), 1)))
    frame.loc[frame[value].isna(), "top"] = ""  # no word where there is no colour
    frame["word"] = [w if len(w) <= letters else f"{w[: letters - 1]}…" for w in frame["top"]]
    few = len(frame) <= CELLS
    largest = {"log10_target_rank": np.log10(d_vocab), "entropy": np.log(d_vocab),
               "kl_to_final": np.log(d_vocab)}.get(value, 1.0)  # fmt: skip
    height = max(380, min(1100, 150 + 24 * len(rows)))
    what = "Component lens" if ask.where == COMPONENTS else f"Site lens, {ask.where}"
    figure = heatmap(
        frame, x="pos", y="order", value=value, unit=UNITS.get(metric, "probability"),
        text="word" if few else None, span=(0.0, float(largest)),
        x_labels=dict(zip(lens.positions.tolist(), map(visible, tokens), strict=True)),
        hover_columns=("place", "token", "target", "target_prob", "target_rank", "top", "top_prob"),
        title=f"{what}: {METRICS[metric]}",
        subtitle=f"n = 1 text, {len(tokens)} tokens"
        + ("; cell: most probable next token" if few else ""),
        labels={"pos": "token at which the prediction is made", "order": "read at",
                "target": "token that follows", "token": "prediction made at",
                "top": "most probable", "top_prob": "its probability"},
        height=height,
    )  # fmt: skip
    figure.update_layout(title={"y": 1 - 24 / height, "yref": "container"}, margin={"t": 80})
    figure.update_traces(textfont={"size": 9 if letters < 8 else 11})
    return figure.update_yaxes(tickmode="array", tickvals=rows["order"].tolist(),
                               ticktext=rows["place"].tolist(), dtick=None)  # fmt: skip


def best_at(lens: "SiteLens", position: int, order: int) -> pd.DataFrame:
    """The k best tokens of one cell.

    Raises:
        ConfigError: a cell that is not there.
    """
    places = lens.positions.tolist()
    if position not in places or not 0 <= order < len(lens.places):
        raise ConfigError(f"there is no cell at token {position}, place {order}; tokens "
                          f"{places[0]} to {places[-1]}, places 0 to "
                          f"{len(lens.places) - 1}")  # fmt: skip
    column = places.index(position)
    return pd.DataFrame({
        "rank": range(1, lens.top.shape[2] + 1),
        "token": marked(lens.words[w] for w in lens.top[order, column]),
        "probability": lens.top_prob[order, column],
    })  # fmt: skip


def writers_at(lens: "SiteLens", position: int, most: int = 8) -> pd.DataFrame:
    """The places that rank a token's successor best, best first; empty where the text ends."""
    frame = frame_of(lens)
    at = frame.loc[(frame["pos"] == position) & frame["target_rank"].notna()]
    shown = at.sort_values(["target_rank", "target_prob"], ascending=[True, False]).head(most)
    return shown[["place", "target_rank", "target_prob", "top"]].reset_index(drop=True)


def told_of(ask: PlacesAsk, lens: "SiteLens") -> str:
    """n, how it is read, and what it is checked against."""
    if ask.where == COMPONENTS:
        return (
            "Each head, bias and MLP by itself, with the final norm's denominator held. Control: "
            f"all of them together are the model's own prediction (KL {lens.gap:.1g} nats). What "
            "one does through later layers is not seen. Empty cells: it writes nothing there"
        )
    last = "The last row is the model's own prediction; one text has no other control"
    if ask.where == "resid_mid":
        return f"The stream before each MLP, through the final norm. {last}"
    how = "normed by itself, as if it were the whole state"
    if ask.norm == "held":
        how = "normed by the full last state's denominator: its share of the logits"
    return f"What is added to the stream, {how}. {last}"


def model_told(ask: PlacesAsk) -> str:
    """Which model was run, on what."""
    card = held_of(ask.text).model.card
    where = f" on row {ask.text.row} of {Path(ask.text.store).name}" if ask.text.store else ""
    return f"{card.name} {card.fingerprint}{where}"


def python_of(ask: PlacesAsk, metric: str, block: str = "all") -> str:
    """Code that draws the same figure in a notebook."""
    name = model_name(hold_store(ask.text.store))[0] if ask.text.store else ask.text.model
    shown = {k: v for k, v in vars(ask.text).items() if v != getattr(LensAsk, k)}
    given = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in shown.items())
    return "\n".join([
        "from lensbench.app.workflows.lens_places import PlacesAsk, figure_of",
        "from lensbench.app.workflows.lenses import LensAsk",
        f"# a run of {name}; the numbers are those of probes."
        + ("component_lens" if ask.where == COMPONENTS else "site_lens"),
        f"ask = PlacesAsk(LensAsk({given}), {ask.where!r}, {ask.norm!r})",
        f"figure_of(ask, {metric!r}, {block!r})",
    ])  # fmt: skip
