"""What the page Acceleration runs: the study held to live runs, and text to predict from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensbench.app.workflows.accelerating import read_prompts, timed
from lensbench.app.workflows.acceleration import ExitAsk, exit_layers_of, held
from lensbench.app.workflows.live import Shelf, hold_store, running, store_version
from lensbench.app.workflows.sequences import model_name
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.skipping.stages import StageReport, inference_stages
from lensbench.interventions.acceleration.study.figures import lens_layers
from lensbench.interventions.acceleration.study.methods import Method
from lensbench.interventions.acceleration.study.own import capture_own
from lensbench.interventions.acceleration.study.registry import default_methods, method
from lensbench.interventions.acceleration.study.study import AccelerationStudy, acceleration_study
from lensbench.tokens import Tokens, as_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LIVE_DRAFTS = (1, 2, 4, 8)
LIVE_EXITS, LIVE_TEXTS = 6, 2
"""Most exit layers and texts of a live run on a page."""
OTHERS = ("del", "shortgpt", "adaskip", "skip_decode")
"""Methods that are run beside the grid of drafts and the exits of the sliders."""
OWN_TEXTS, OWN_PROMPT, OWN_NEW = 8, 8, 48
"""Prompts taken from a store of other text, their tokens, and the tokens the model adds."""
SHOWN = {
    "label": "method", "prediction_class": "class", "held": "as predicted", "tested": "same text",
    "agreement": "agreement", "kl": "KL, nats",
    "pred_speedup_calibrated": "speed-up, predicted", "meas_speedup": "speed-up, measured",
    "flops_saved": "FLOPs saved, share",
}  # fmt: skip

_live: Shelf[AccelerationStudy] = Shelf(4)
_stages: Shelf[StageReport] = Shelf(4)


def measured(ask: ExitAsk) -> AccelerationStudy:
    """Predictions for some texts of a store, and live runs of all of them.

    Raises:
        MismatchError: the store holds other text than the model's own.
        ConfigError: an architecture whose layers cannot be run one by one.
    """
    key = (ask.store, store_version(ask.store), ask.threshold, ask.measure)
    return _live.get(key, lambda: _measure(ask))


def _measure(ask: ExitAsk) -> AccelerationStudy:
    table = held(ask.store).table
    last = list(table.documents())[:LIVE_TEXTS][-1].number
    rows = int((table.doc <= last).sum())
    store = hold_store(ask.store)
    with running(*model_name(store)) as model:
        found = acceleration_study(model, store, _methods(ask, table.n_layers), max_tokens=rows)
        return timed(found, model, repeats=3).verify(model)


def _methods(ask: ExitAsk, n_layers: int) -> list[Method]:
    exits = exit_layers_of(n_layers)
    exits = sorted({exits[round(i)] for i in np.linspace(0, len(exits) - 1, LIVE_EXITS)})
    sliders = {"threshold": ask.threshold, "measure": ask.measure}
    return [
        *(method("fixed_exit", exit_layer=e, draft=d) for e in exits for d in LIVE_DRAFTS),
        *(method(name, **sliders) for name in ("early_exit", "early_exit_copy")),
        *default_methods(n_layers, OTHERS),
    ]


def told(found: AccelerationStudy) -> str:
    """What the runs showed, in words."""
    kept = [r["held"] for r in found.rows if r["held"] is not None]
    same = [r["tested"] for r in found.rows if r["tested"] is not None]
    slips = [f"{r['label']}: {r['held_note']}" for r in found.rows if r["held_note"]]
    return (
        f"{sum(kept)} of {len(kept)} methods and settings did what was predicted of them, as far "
        f"as their class goes (identical: round by round, exit by exit), and {sum(same)} of "
        f"{len(same)} drafting ones wrote the text of plain decoding; {n_prompts(found)} prompts. "
        + "; ".join(slips)
    )


def n_prompts(found: AccelerationStudy) -> int:
    """Prompts that were decoded by every method."""
    return len(list(found.table.documents()))


def drafts_of(found: AccelerationStudy) -> "pd.DataFrame":
    """One row per exit layer and draft length: acceptance predicted and measured."""
    import pandas as pd

    rows = [r for r in found.rows if r["method"] == "fixed_exit"]
    frame = pd.DataFrame([
        {**r["config"], "predicted": r["acceptance"], "measured": r["meas_acceptance"]}
        for r in rows
    ])  # fmt: skip
    frame.attrs["units"] = dict.fromkeys(("predicted", "measured"), "accepted / drafted")
    return frame


def stages_figure(ask: ExitAsk) -> "go.Figure":
    """Agreement by layer with what tells the stages of inference apart, measured on the same texts.

    Raises:
        UnknownSiteError: an architecture whose attention patterns are not in the open.
    """
    table = held(ask.store).table
    documents = list(table.documents())[:LIVE_TEXTS]
    texts = as_tokens([[*table.prompts[d.number], *d.text] for d in documents])
    texts = Tokens(texts.ids, texts.real)  # a model may write its padding token itself

    def measure() -> StageReport:
        with running(*model_name(hold_store(ask.store))) as model:
            return inference_stages(model, texts)

    found = _stages.get((ask.store, store_version(ask.store)), measure)
    return lens_layers(table, found.to_frame())


def speedup_figure(found: AccelerationStudy) -> "go.Figure":
    """Predicted against measured speed-up, with the line where they are equal."""
    figure = found.plot("speedup")
    figure.update_shapes(line_color="gray")
    figure.update_xaxes(title="predicted from timed layers")
    return figure.update_yaxes(title="measured (CPU time)")


def others_of(found: AccelerationStudy) -> "pd.DataFrame":
    """Rows of everything but the grid of drafts, in a reader's words."""
    import pandas as pd

    rows = [r for r in found.rows if r["method"] != "fixed_exit"]
    return pd.DataFrame([{name: r[key] for key, name in SHOWN.items()} for r in rows]).round(3)


def capture_continuations(store: str, out: Path) -> str:
    """Let the model of a store go on from the beginnings of its texts; gives the new store.

    Raises:
        ConfigError: no text is longer than one token, or the folder is taken.
        LensbenchError: see :func:`capture_own`.
    """
    if out.exists():
        raise ConfigError(f"{out.name} is there already; choose it above, or move it away")
    source = hold_store(store)
    prompts = beginnings(store)
    with running(*model_name(source)) as model:
        context = model.card.n_ctx or OWN_PROMPT + OWN_NEW
        new = min(OWN_NEW, context - max(map(len, prompts)))
        return capture_own(model, prompts, out, new).url


def capture_examples(model: str, n: int, new_tokens: int, out: Path) -> str:
    """Let a bundled model continue ``n`` example prompts; gives the new store.

    Raises:
        ConfigError: the folder is taken.
    """
    if out.exists():
        raise ConfigError(f"{out.name} is there already; choose it above, or move it away")
    with running(model) as opened:
        return capture_own(opened, read_prompts(f"atlas:{n}"), out, new_tokens).url


def beginnings(url: str) -> list[list[int]]:
    """The first tokens of the first texts of a store, as the model saw them.

    Raises:
        ConfigError: the store has no token.
    """
    store = hold_store(url)
    docs = store.index().doc_ids
    firsts = [int(i) for i in np.flatnonzero(np.diff(docs, prepend=-1))][:OWN_TEXTS]
    if not firsts:
        raise ConfigError(f"the store in {url} holds no token yet")
    found: list[list[int]] = []
    for first in firsts:
        whole = store.sequence_of(first)
        ids = whole.tokens.ids[0].numpy()[whole.doc_ids[0] == docs[first]]
        found.append([int(i) for i in ids[: max(1, min(OWN_PROMPT, len(ids) // 2))]])
    return found
