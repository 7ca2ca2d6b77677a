"""What the page Acceleration runs: the study held to live runs, and text to predict from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.app.workflows import studies
from lensbench.app.workflows.accelerating import beginnings
from lensbench.app.workflows.acceleration import ExitAsk, exit_layers_of, held
from lensbench.app.workflows.finding import read_json
from lensbench.app.workflows.live import Shelf, hold_store, running, store_version
from lensbench.app.workflows.sequences import model_name, model_of
from lensbench.interventions.acceleration.skipping.stages import StageReport, inference_stages
from lensbench.interventions.acceleration.study.figures import lens_layers
from lensbench.interventions.acceleration.study.study import AccelerationStudy as AccelerationStudy
from lensbench.store.manifest import MANIFEST
from lensbench.tokens import Tokens, as_tokens

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LIVE_DRAFTS = (1, 2, 4, 8)
LIVE_EXITS, LIVE_TEXTS = 6, 2
"""Most exit layers and texts of a live run on a page."""
OTHERS = ("del", "shortgpt", "adaskip", "skip_decode")
"""Methods that are run beside the grid of drafts and the exits of the sliders."""
OWN_NEW = 48
"""Tokens that the model adds to the beginnings of a store's texts, where they fit."""
LIVE = "live"
SHOWN = {
    "label": "method", "prediction_class": "class", "held": "as predicted", "tested": "same text",
    "agreement": "agreement", "kl": "KL(full ‖ accelerated) [nats]",
    "pred_speedup_calibrated": "speed-up, predicted", "meas_speedup": "speed-up, measured",
    "flops_saved": "FLOPs saved, share",
}  # fmt: skip

_stages: Shelf[StageReport] = Shelf(4)


def settings_of(root: Path, ask: ExitAsk) -> dict[str, Any]:
    """A live run as the settings of its job, and of the command line.

    Raises:
        MissingDataError: no such store (any more).
    """
    store = hold_store(ask.store)
    name, revision = model_name(store)
    out = studies.place(root, LIVE, f"{Path(ask.store).name}-live", store.fingerprint,
                        ask.threshold, ask.measure)  # fmt: skip
    return {"model": name, **({"revision": revision} if revision else {}), "store": ask.store,
            "methods": _methods(ask, held(ask.store).table.n_layers), "live": True,
            "texts": LIVE_TEXTS, "out": str(out)}  # fmt: skip


def saved(root: Path, ask: ExitAsk) -> AccelerationStudy | None:
    """Predictions for some texts of a store and live runs of all of them; None until they are done.

    Raises:
        DamagedDataError: they cannot be read.
    """
    return studies.opened(Path(settings_of(root, ask)["out"]), AccelerationStudy)


def _methods(ask: ExitAsk, n_layers: int) -> str:
    """As ``--methods`` takes them: a grid of drafts, the exits of the sliders, and others."""
    exits = exit_layers_of(n_layers)
    exits = sorted({exits[round(i)] for i in np.linspace(0, len(exits) - 1, LIVE_EXITS)})
    layers, drafts = ("|".join(map(str, one)) for one in (exits, LIVE_DRAFTS))
    sliders = f"(threshold={ask.threshold:g}, measure={ask.measure})"
    grid = f"fixed_exit(exit_layer={layers}, draft={drafts})"
    return ", ".join([grid, f"early_exit{sliders}", f"early_exit_copy{sliders}", *OTHERS])


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


def own_settings(root: Path, folder: str, store: str) -> dict[str, Any]:
    """Settings of the job in which the model of a store goes on from the beginnings of its texts.

    Raises:
        ConfigError: the store has no token.
    """
    source = hold_store(store)
    name, revision = model_name(source)
    longest = max(map(len, beginnings(source)))
    room = (model_of(source).model.card.n_ctx or longest + OWN_NEW) - longest
    return {"model": name, **({"revision": revision} if revision else {}), "prompts": store,
            "new_tokens": min(OWN_NEW, room), "keep": str(root / folder),
            "text_only": True}  # fmt: skip


def example_settings(
    root: Path, folder: str, model: str, n: int, new_tokens: int
) -> dict[str, Any]:
    """Settings of the job in which a bundled model continues ``n`` example prompts."""
    return {"model": model, "prompts": f"atlas:{n}", "new_tokens": new_tokens,
            "keep": str(root / folder), "text_only": True}  # fmt: skip


def is_written(root: Path, folder: str) -> bool:
    """Whether there is a finished store of that name."""
    manifest = root / folder / MANIFEST
    return manifest.is_file() and bool(read_json(manifest).get("complete"))
