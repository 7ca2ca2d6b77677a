"""The page Acceleration: what exits and drafts would do, told from a store; no block is run.

The lens table of a store is kept in memory, so that moving a slider only asks it again. What a live
run then measures is in ``acceleration_live``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import Shelf, hold_store, store_version
from lensbench.app.workflows.sequences import model_name, model_of
from lensbench.errors import MissingDataError
from lensbench.interventions.acceleration.study.cost import LayerCosts, serial_calls
from lensbench.interventions.acceleration.study.lens_read import lens_table
from lensbench.interventions.acceleration.study.own import require_stream
from lensbench.interventions.acceleration.study.simulate import sim_fixed
from lensbench.interventions.acceleration.study.simulate_exits import exit_quality, sim_calm
from lensbench.interventions.acceleration.study.trace import ExitTrace, Trace, rates
from lensbench.interventions.acceleration.study.work import (
    Work,
    work_exits,
    work_plain,
    work_rounds,
)

if TYPE_CHECKING:
    from lensbench.interventions.acceleration.study.lens_table import LensTable

MEASURES = {
    "softmax_diff": "Largest less second probability",
    "softmax_max": "Largest probability",
    "entropy": "1 - entropy / log vocabulary",
    "state": "Cosine with the layer before",
}
"""Scores of certainty, as a reader is told of them."""
DRAFTS = (1, 2, 3, 4, 6, 8, 12)
THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.01)
MAX_EXITS = 12
"""Exit layers of a heat map; of a deeper model evenly spread ones."""
MAX_ROWS = 4096
"""Tokens of a store that a page reads."""


@dataclass(frozen=True)
class ExitAsk:
    """A store, and where the sliders stand."""

    store: str
    exit_layer: int = 1
    draft: int = 4
    threshold: float = 0.6
    measure: str = "softmax_diff"


class Held(NamedTuple):
    """What is kept of a store."""

    table: "LensTable"
    costs: LayerCosts
    source: str
    """Name of the model."""
    plain: dict[tuple[tuple[int, int], ...], tuple[float, int]]
    """FLOPs and serial layers of plain decoding, by prompt and new tokens of the texts."""

    @property
    def exact(self) -> bool:
        """Is the text the model's own, so that predictions are exact?"""
        return not self.table.inexact


_held: Shelf[Held] = Shelf(4)
_grids: Shelf[pd.DataFrame] = Shelf(16)
_told: Shelf[dict[str, float]] = Shelf(512)
"""What was told for one place of the sliders: the grid fills it for every usual draft."""


def held(url: str) -> Held:
    """Lens table and costs of a store, read once.

    Raises:
        MissingDataError: no such store or model, or a store without the stream of some layer.
        MismatchError: the model of that name has other weights than the store's.
        ConfigError: an architecture whose layers cannot be run one by one.
    """

    def read() -> Held:
        store = hold_store(url)
        kept = model_of(store)
        with kept.lock:
            table = lens_table(store, kept.model, max_tokens=MAX_ROWS)
            return Held(table, LayerCosts.of(kept.model), model_name(store)[0], {})

    return _held.get((url, store_version(url)), read)


def lacking(url: str) -> str:
    """What a store lacks for the stream of every layer, and how to add it; empty: nothing.

    Raises:
        ConfigError: a model that does not predict the next token, whatever the store holds.
    """
    store = hold_store(url)
    model_of(store).model.require_next_token("an exit layer")
    try:
        require_stream(store, int(store.model.get("n_layers", 1)))
    except MissingDataError as error:
        return str(error)
    return ""


def why_a_guess(url: str) -> str:
    """Why predictions from a store are not exact, without what to call in Python."""
    return held(url).table.inexact.partition(". Capture")[0]


def told_of_text(url: str) -> str:
    """The texts of a store in one line."""
    found = held(url).table
    texts, new = int(found.summary()["documents"]), int(found.new.sum())
    if not held(url).exact:
        return f"{texts} texts, {new:,} tokens that are not the model's own."
    ties = found.ties()
    close = f" At {ties} of them two tokens are within 1e-4 nats at some layer." if ties else ""
    return f"{texts} prompts and {new:,} tokens that {held(url).source} wrote itself.{close}"


def drafted(ask: ExitAsk) -> dict[str, float]:
    """What drafting from the chosen exit layer would do."""
    key = (ask.store, store_version(ask.store), ask.exit_layer, ask.draft)
    return _told.get(key, lambda: _drafted(ask))


def _drafted(ask: ExitAsk) -> dict[str, float]:
    found = held(ask.store)
    traces = sim_fixed(found.table, ask.exit_layer, ask.draft, exact=False)
    told = rates(traces)
    return {
        "acceptance": told.acceptance,
        "first_token": told.first,
        "tokens_per_round": told.tokens_per_round,
        **_spent(found, traces, [work_rounds(found.table.n_layers, t) for t in traces]),
    }


def left(ask: ExitAsk) -> dict[str, float]:
    """What leaving at the chosen threshold would do, keys and values being made up for later."""
    key = (ask.store, store_version(ask.store), ask.threshold, ask.measure)
    return _told.get(key, lambda: _left(ask))


def _left(ask: ExitAsk) -> dict[str, float]:
    found = held(ask.store)
    traces = sim_calm(found.table, ask.threshold, measure=ask.measure, exact=False)
    layers = np.concatenate([t.exits for t in traces])
    quality = _quality(found.table, layers)
    return {"layers": float(layers.mean()), **quality, **_exit_costs(found, traces, ask.measure)}


def draft_grid(url: str) -> pd.DataFrame:
    """Acceptance and costs of every exit layer and draft length."""

    def make() -> pd.DataFrame:
        found = held(url)
        rows = [
            {"exit_layer": e, "draft": d, **drafted(ExitAsk(url, e, d))}
            for e in exit_layers_of(found.table.n_layers)
            for d in DRAFTS
        ]
        return _with_units(pd.DataFrame(rows).assign(n=int(found.table.new.sum())))

    return _grids.get((url, store_version(url), "drafts"), make)


def exit_counts(ask: ExitAsk) -> pd.DataFrame:
    """Tokens that leave after each number of layers."""
    table = held(ask.store).table
    traces = sim_calm(table, ask.threshold, measure=ask.measure, exact=False)
    layers = np.concatenate([t.exits for t in traces])
    counts = np.bincount(layers, minlength=table.n_layers + 1)[1:]
    frame = pd.DataFrame({
        "exit_layer": np.arange(1, table.n_layers + 1), "share": counts / len(layers),
        "tokens": counts,
    })  # fmt: skip
    frame.attrs["units"] = {"share": "share of new tokens"}
    return frame


def front(url: str) -> pd.DataFrame:
    """Quality against compute of exits that are not checked: thresholds, one for all, oracle."""

    def make() -> pd.DataFrame:
        found = held(url)
        n_layers = found.table.n_layers
        rows: list[dict[str, Any]] = []
        asks = [(m, t, None) for m in MEASURES for t in THRESHOLDS] + [("oracle", 0.0, None)]
        asks += [("one exit", 0.0, [e]) for e in exit_layers_of(n_layers)]
        for name, threshold, exits in asks:
            measure = "softmax_max" if exits else name
            traces = sim_calm(found.table, threshold, measure=measure, exits=exits, exact=False)
            layers = np.concatenate([t.exits for t in traces])
            setting = f"after {exits[0]} layers" if exits else f"threshold {threshold:g}"
            rows.append({
                "method": name, "setting": "" if name == "oracle" else setting,
                "layers": float(layers.mean()), **_quality(found.table, layers),
                **_exit_costs(found, traces, measure, exits), "n": len(layers),
            })  # fmt: skip
        return _with_units(pd.DataFrame(rows))

    return _grids.get((url, store_version(url), "front"), make)


def layer_frame(url: str) -> pd.DataFrame:
    """Agreement of every exit layer with the full model, and the table's other measures."""
    key = (url, store_version(url), "layers")
    return _grids.get(key, lambda: held(url).table.to_frame())


def exit_layers_of(n_layers: int) -> list[int]:
    """Exit layers of a heat map."""
    if n_layers <= MAX_EXITS:
        return list(range(1, n_layers + 1))
    return sorted({round(e) for e in np.linspace(1, n_layers, MAX_EXITS)})


def _quality(table: "LensTable", layers: np.ndarray) -> dict[str, float]:
    """Agreement and KL of new tokens that leave after ``layers``."""
    columns = np.full(table.step.shape, table.n_layers)
    columns[table.new] = layers
    found = exit_quality(table, columns)
    return {name: float(found[name].mean()) for name in ("agreement", "kl")}


def _exit_costs(
    found: Held, traces: Sequence[ExitTrace], measure: str, exits: Sequence[int] | None = None
) -> dict[str, float]:
    n_layers = found.table.n_layers
    allowed = list(range(1, n_layers)) if exits is None else [e for e in exits if e < n_layers]
    reads = measure != "state"
    works = [
        work_exits(n_layers, t, allowed, reads_logits=reads and exits is None, oracle=False)
        for t in traces
    ]
    return _spent(found, traces, works)


def _spent(
    found: Held, traces: Sequence[Trace | ExitTrace], works: Sequence[Work]
) -> dict[str, float]:
    """FLOPs and serial layers as a share of plain decoding of the same texts."""
    lengths = tuple((t.n_prompt, t.new) for t in traces)
    if lengths not in found.plain:
        whole = [work_plain(found.table.n_layers, *one) for one in lengths]
        found.plain[lengths] = _counted(found, whole)
    flops, calls = _counted(found, works)
    plain = found.plain[lengths]
    return {"flops_share": flops / plain[0], "serial_speedup": plain[1] / calls}


def _counted(found: Held, works: Sequence[Work]) -> tuple[float, int]:
    """FLOPs and serial layers of some texts: all are sums, so they are counted as one run."""
    one = Work(
        np.concatenate([w.spans for w in works]), tuple(h for w in works for h in w.heads),
        sum(w.filled for w in works),
    )  # fmt: skip
    return found.costs.of_work(one), serial_calls(one, found.table.n_layers)


def _with_units(frame: pd.DataFrame) -> pd.DataFrame:
    frame.attrs["units"] = {
        "acceptance": "accepted / drafted", "agreement": "share of new tokens",
        "kl": "KL(full ‖ early exit) [nats]",
        "serial_speedup": "layers of plain decoding / layers", "n": "new tokens",
    }  # fmt: skip
    return frame
