"""Which experts the tokens of one text are sent to: token by layer, typed or from a store."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import hold_store, running, store_version
from lensbench.app.workflows.sequences import sequence_at
from lensbench.errors import ConfigError, MissingDataError
from lensbench.interventions.experts.rows import moe_layers, rows_of
from lensbench.plots import visible
from lensbench.sites import Site
from lensbench.tokens import meant, token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_TOKENS = 48
"""Columns of a map whose labels can be read; of a longer text the first ones, and that is said."""
COLOURS = {"weight": "Gate weight of the expert", "load": "Load of the expert in this text"}


@lru_cache(maxsize=32)
def typed(model: str, prompt: str) -> pd.DataFrame:
    """The routing of a prompt; the model is run once.

    Raises:
        ConfigError: a model without experts, or no prompt.
    """
    if not prompt.strip():
        raise ConfigError("give a prompt of one word or more")
    with running(model) as opened:
        row = rows_of(opened, prompt)[0]
        layers = moe_layers(opened)
        sites = [Site(f"router.{p}", i) for i in layers for p in ("weights", "indices")]
        acts = opened.run(meant(row), capture=sites, logits="none").acts
        words = token_texts(opened.tokenizer, row)
    arrays = {s: acts[s][0].float().cpu().numpy() for s in sites}
    return _frame(words, arrays, layers)


def stored(url: str, row: int) -> pd.DataFrame:
    """The routing of the sequence around a stored row; nothing is run.

    Raises:
        MissingDataError: the store lacks the routing; says how to add it.
    """
    return _stored(url, row, store_version(url))


@lru_cache(maxsize=32)
def _stored(url: str, row: int, version: tuple[int, ...]) -> pd.DataFrame:
    del version  # part of the key only
    store = hold_store(url)
    known = [Site.parse(s) for s in store.sites]
    layers = [s.layer for s in known if s.name == "router.indices" and s.layer is not None]
    if not layers or any(str(Site("router.weights", i)) not in store.sites for i in layers):
        add = "lensbench.capture(model, text, ['blocks.*.router.indices', 'blocks.*.router.weights'"
        raise MissingDataError(
            f"the store in {url} does not hold the routing of its tokens. Capture it with "
            f"{add}], out=...), or choose a typed prompt"
        )
    whole = sequence_at(url, row)
    kept = whole.rows >= 0
    rows = whole.rows[kept]
    words = [word for word, there in zip(whole.words, kept, strict=True) if there]
    sites = [Site(f"router.{p}", i) for i in layers for p in ("weights", "indices")]
    return _frame(words, {s: store.rows(s, rows) for s in sites}, layers)


def _frame(words: Any, arrays: "dict[Site, np.ndarray]", layers: Any) -> pd.DataFrame:
    """One row per token and layer: its first expert, that one's weight and load, and all gates."""
    parts: list[pd.DataFrame] = []
    for layer in layers:
        weights = np.asarray(arrays[Site("router.weights", layer)], dtype=np.float64)
        chosen = np.asarray(arrays[Site("router.indices", layer)]).round().astype(int)
        first = weights.argmax(1)
        at = np.arange(len(weights))
        share = np.bincount(chosen.ravel()) / chosen.size
        order = np.argsort(-weights, axis=1, kind="stable")
        gates = [", ".join(f"expert {chosen[t, s]}: {weights[t, s]:.3f}" for s in order[t])
                 for t in at]  # fmt: skip
        parts.append(pd.DataFrame({
            "position": at, "token": [visible(str(w)) for w in words], "layer": layer,
            "expert": chosen[at, first].astype(str), "weight": weights[at, first],
            "load": share[chosen[at, first]], "gates": gates,
        }))  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"weight": "gate weight", "load": "share of slots"}
    return frame


def drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """What fits on a map: the first tokens."""
    out = frame.query(f"position < {MOST_TOKENS}").reset_index(drop=True)
    out.attrs.update(frame.attrs)
    return out


def routing_figure(frame: pd.DataFrame, colour: str) -> "go.Figure":
    """Tokens by layers; the label of a cell is the expert of largest weight."""
    from lensbench.plots import heatmap

    first = frame[frame["layer"] == frame["layer"].iloc[0]]
    top = 1.0 if colour == "weight" else max(map(float, frame["load"]))
    figure = heatmap(
        frame, x="position", y="layer", value=colour, text="expert", span=(0.0, top),
        x_labels=dict(zip(first["position"], first["token"], strict=True)),
        hover_columns=("token", "gates"), title="Routing: the expert of largest weight",
        subtitle=f"colour: {COLOURS[colour].lower()}, 0 to {top:.2g}",
        labels={"position": "token"}, height=230 + 34 * len(set(frame["layer"])),
    )  # fmt: skip
    return figure.update_yaxes(dtick=1)


def python_of(model: str, prompt: str, url: str, row: int, colour: str) -> str:
    """The same in a notebook."""
    read = f"stored({url!r}, {row})" if url else f"typed({model!r}, {prompt!r})"
    name = "stored" if url else "typed"
    return (
        f"from lensbench.app.workflows.expert_routing import drawn, routing_figure, {name}\n\n"
        f"routing_figure(drawn({read}), {colour!r})\n"
    )
