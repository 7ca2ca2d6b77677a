"""The Lens page: a token-by-layer map of one text, and one cell of it looked at closely.

A text is asked for by small values (:class:`LensAsk`), and what was read is kept under them: a
click on a cell reads kept residual streams, and runs no model.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.lens_partial import partial_states, stored_layers
from lensbench.app.workflows.lens_special import special_places
from lensbench.app.workflows.live import Shelf, hold_model, hold_store, running, store_version
from lensbench.app.workflows.sequences import model_name, model_of
from lensbench.app.workflows.token_names import tokens_named
from lensbench.app.workflows.tuned import REMINDER, open_lens, read_states, version
from lensbench.errors import ConfigError, LensbenchError, MissingDataError
from lensbench.probes.lenses.marked import marked
from lensbench.sites import Site
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model
    from lensbench.probes.lenses.states import LensStates
    from lensbench.probes.lenses.tokens import TokenLens
    from lensbench.store import ActivationStore

KEPT = ("target_prob", "target_rank", "entropy", "kl_to_final")  # rows of ``TokenLens.values``
MAX_TEXT = 2_000  # characters of a typed text
DISCLAIMER = (
    "early layers need not write in the basis that the unembedding reads, so a poor lens there "
    "does not mean that the layer knows nothing"
)


@dataclass(frozen=True)
class LensAsk:
    """Which text: the sequence around a row of a store, or a typed text and a model's name."""

    store: str = ""
    row: int = 0
    model: str = ""
    text: str = ""
    k: int = 5
    max_tokens: int = 32
    lens: str = ""
    """Folder of a tuned lens; empty for the logit lens."""

    def __post_init__(self) -> None:
        """One of the two, and not too much of it."""
        if bool(self.store) == bool(self.model):
            raise ConfigError("a lens reads either a store or a typed text with a model")
        if self.model and not self.text.strip():
            raise ConfigError("the text is empty; type a few words")
        if len(self.text) > MAX_TEXT:
            raise ConfigError(f"the text has {len(self.text)} characters; a page takes {MAX_TEXT}")


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the map: its k best tokens, and tokens followed through all layers."""

    layer: int
    position: int
    token: str
    target: str
    top: pd.DataFrame
    """One row per rank: token, probability, logit."""
    course: pd.DataFrame
    """One row per layer and token followed: the cell's best, the text's next, the model's final."""

    def plot(self, *, height: int = 360) -> "go.Figure":
        """Probability of the followed tokens over the layers."""
        from lensbench.plots import lines, visible
        from lensbench.plots.columns import escape_all

        [word] = escape_all([visible(self.token)])  # plotly reads a little HTML in titles
        figure = lines(
            self.course, x="layer", y="probability", color="token", hover_columns=("rank",),
            title=f"Prediction made at {word} (token {self.position})",
            subtitle="n = 1 token", labels={"layer": "after block"}, height=height,
        )  # fmt: skip
        figure.update_yaxes(range=[-0.03, 1.03])
        if len({int(n) for n in self.course["layer"]}) <= 12:
            figure.update_xaxes(dtick=1)  # there is nothing after block 2.5
        figure.update_layout(legend={"orientation": "h", "y": -0.28, "title": {"text": ""}})
        return figure


_states: "Shelf[LensStates]" = Shelf(8)
_lenses: "Shelf[TokenLens]" = Shelf(16)


def reminder(ask: LensAsk) -> str:
    """What the lens that was chosen must not be taken for."""
    return REMINDER if ask.lens else DISCLAIMER


def lens_for(ask: LensAsk) -> "TokenLens":
    """The map. A typed text runs the model once; a store asks only for its unembedding.

    Raises:
        MissingDataError: no such store or model, or a store without any ``resid_post``.
        MismatchError: the model of that name has other weights than the store's.
    """
    model = _model(ask)
    where = f"row {ask.row} of {Path(ask.store).name}" if ask.store else "a typed text"
    return _lenses.get(_key(ask, model), lambda: _lens(ask, model, where))


def special_of(ask: LensAsk) -> list[int]:
    """Positions of the text's special tokens, such as BOS."""
    return special_places(_states_for(ask), _model(ask).tokenizer)


def lacking(ask: LensAsk) -> str:
    """What a store lacks for a map up to the last layer, and how to add it; empty where nothing."""
    if not ask.store:
        return ""
    store = hold_store(ask.store)
    try:
        store.require(_last_site(store))
    except MissingDataError as error:
        return str(error)
    return ""


def has_layers(ask: LensAsk) -> bool:
    """Whether there is any layer to draw."""
    return not ask.store or bool(stored_layers(hold_store(ask.store)))


def _lens(ask: LensAsk, model: "Model", where: str) -> "TokenLens":
    lens = open_lens(ask.lens, model)
    found = _states_for(ask).lens(model, k=ask.k, source=where, readout=lens)
    if not lacking(ask):
        return found
    values = found.values.copy()
    values[KEPT.index("kl_to_final")] = np.nan  # what it was compared with is not the final layer
    return replace(found, values=values)


def cell_for(ask: LensAsk, position: int, layer: int, pins: str = "") -> Cell:
    """Top tokens at one cell and their course over the layers, those of ``pins`` too; runs nothing.

    Raises:
        ConfigError: a position or layer that the map does not have.
    """
    import torch

    model, found = _model(ask), _states_for(ask)
    places = found.positions.tolist()
    if position not in places or layer not in found.layers:
        raise ConfigError(f"there is no cell at position {position} after block {layer}; positions "
                          f"{places[0]} to {places[-1]}, layers {found.layers[0]} to "
                          f"{found.layers[-1]}")  # fmt: skip
    column = places.index(position)
    lens = open_lens(ask.lens, model)
    logits = read_states(found.states[:, column], found.layers, model, lens).float().cpu()
    at = logits[found.layers.index(layer)]
    best = at.topk(min(ask.k, len(at)))
    words = token_texts(model.tokenizer, best.indices.tolist())
    top = pd.DataFrame({
        "rank": range(1, len(words) + 1), "token": marked(words),
        "probability": at.softmax(-1)[best.indices].numpy(), "logit": best.values.numpy(),
    })  # fmt: skip
    target = int(found.targets[column])
    followed = {"best here": int(best.indices[0])}
    followed |= {"next": target} if target >= 0 else {}
    followed |= {} if lacking(ask) else {"final": int(logits[-1].argmax())}
    pinned = tokens_named(model.tokenizer, pins)
    followed |= {"pinned" + " " * i: token for i, token in enumerate(pinned)}
    named = token_texts(model.tokenizer, [int(found.ids[column]), max(target, 0)])
    course = follow(torch.log_softmax(logits, -1), found.layers, followed, model)
    return Cell(layer, position, named[0], named[1] if target >= 0 else "", top, course)


def follow(
    logp: "object", layers: tuple[int, ...], followed: dict[str, int], model: "Model"
) -> pd.DataFrame:
    """Probability and rank of some tokens after every block; a token with two roles comes once."""
    import torch

    assert isinstance(logp, torch.Tensor)
    roles: dict[int, list[str]] = {}
    for role, token in followed.items():
        roles.setdefault(token, []).append(role)
    parts: list[pd.DataFrame] = []
    from lensbench.plots import visible

    for token, named in roles.items():
        word = visible(token_texts(model.tokenizer, [token])[0])
        mine = logp[:, token : token + 1]
        parts.append(pd.DataFrame({
            "layer": layers,
            "token": f"{word} ({', '.join(n.strip() for n in named)})",
            "probability": mine[:, 0].exp().numpy(),
            "rank": 1 + (logp > mine).sum(-1).numpy(),
        }))  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"probability": "softmax of the lens", "rank": "1 is best"}
    return frame


def python_of(ask: LensAsk, metric: str) -> str:
    """Code that draws the same figure in a notebook."""
    lines = ["import lensbench", "from lensbench import probes"]
    tuned = f", readout=probes.load_tuned_lens({json.dumps(ask.lens)}, model)" if ask.lens else ""
    show = f'.lens(model, k={ask.k}{tuned}).plot("{metric}")'
    if ask.store:
        name, revision = model_name(hold_store(ask.store))
        lines += [f"store = lensbench.open_store({json.dumps(ask.store)})"]
        states = f"probes.states_of_store(store, {ask.row}, max_tokens={ask.max_tokens})"
    else:
        name, revision = ask.model, None
        states = (f"probes.states_of_text(model, model.tokens({json.dumps(ask.text)}), "
                  f"max_tokens={ask.max_tokens})")  # fmt: skip
    more = f", revision={revision!r}" if revision else ""
    return "\n".join([*lines, f"model = lensbench.load_model({name!r}{more})", states + show])


def python_of_cell(
    ask: LensAsk, position: int, layer: int, pins: str = "", then: str = ".plot()"
) -> str:
    """Code that draws the course of one cell's tokens in a notebook; ``.top`` is its best ones."""
    shown = {k: v for k, v in vars(ask).items() if v != getattr(LensAsk, k)}
    given = ", ".join(f"{k}={json.dumps(v)}" for k, v in shown.items())
    more = f", {pins!r}" if pins.strip() else ""
    return "\n".join([
        "from lensbench.app.workflows.lenses import LensAsk, cell_for",
        f"cell_for(LensAsk({given}), {position}, {layer}{more}){then}",
    ])  # fmt: skip


def model_names(stores: list[str]) -> list[str]:
    """Models that can be asked: the bundled ones, and those of the given stores."""
    from lensbench.models.loading import bundled_models

    names = dict.fromkeys(bundled_models())
    for url in stores:
        try:
            names[model_name(hold_store(url))[0]] = None
        except LensbenchError:  # a store that is damaged, or whose model has no name
            continue
    return list(names)


def _states_for(ask: LensAsk) -> "LensStates":
    from lensbench.probes.lenses.states import states_of_store, states_of_text

    def read() -> "LensStates":
        if ask.store and lacking(ask):
            return partial_states(hold_store(ask.store), ask.row, ask.max_tokens)
        if ask.store:
            return states_of_store(hold_store(ask.store), ask.row, max_tokens=ask.max_tokens)
        with running(ask.model) as model:
            return states_of_text(model, model.tokens(ask.text), max_tokens=ask.max_tokens)

    return _states.get(_key(replace(ask, lens=""), _model(ask)), read)


def _model(ask: LensAsk) -> "Model":
    if not ask.store:
        return hold_model(ask.model).model
    store = hold_store(ask.store)
    if not stored_layers(store):
        store.require(_last_site(store))
    return model_of(store).model


def _last_site(store: "ActivationStore") -> str:
    return str(Site("resid_post", int(store.model.get("n_layers", 1)) - 1))


def _key(ask: LensAsk, model: "Model") -> tuple[object, ...]:
    """A store that changed, or other weights under the same name, are something else."""
    store = store_version(ask.store) if ask.store else ()
    return (ask, store, model.card.fingerprint, *version(ask.lens))
