"""The page Ask a state: the tokens to come, read off a state by maps fitted on a store.

The fit is a job (``lensbench lens future --out``) whose result lies in ``future/`` below the root:
its scores on held-out documents, and the lens itself in ``lens/`` below them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.finding import once
from lensbench.app.workflows.lens_places import held_of, tokens_of
from lensbench.app.workflows.lenses import LensAsk
from lensbench.app.workflows.live import Shelf, hold_store
from lensbench.app.workflows.sequences import document_of, model_of
from lensbench.errors import ConfigError, LensbenchError, MissingDataError
from lensbench.probes.lenses.marked import marked
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.probes.lenses.future.grid import FutureGrid
    from lensbench.probes.lenses.future.lens import FutureLens
    from lensbench.probes.lenses.future.score_result import FutureScores

FOLDER, LENS, FILE = "future", "lens", "result.json"
AHEAD = (0, 1, 2, 3)
"""Distances: 0 is the next token."""
TARGETS = {"state": "the final state", "vocabulary": "the logits"}
METRICS = {
    "precision@1": "Finds the model's own best token",
    "precision@5": "Has it among its best 5",
    "text_accuracy": "Finds the token of the text",
    "surprisal": "Surprise of what it says (nats)",
}
STATES = {"method": "future lens", "shuffled": "control: states of other tokens",
          "no_transplant": "control: no state", "bigram": "control: bigrams"}  # fmt: skip


@dataclass(frozen=True)
class FutureAsk:
    """A text, and the folder of a future lens that reads it."""

    folder: str
    """Where the job has left its result."""
    fitted: str
    """The store it was fitted on, whose text gives the bigrams."""
    source: LensAsk


_grids: "Shelf[FutureGrid]" = Shelf(12)


def folder_for(root: Path, store: str, target: str) -> Path:
    """Where the fit of a store lies: another folder for other contents and another target."""
    print_ = sha256(f"{hold_store(store).fingerprint} {target} {AHEAD}".encode()).hexdigest()[:8]
    return root / FOLDER / f"{Path(store).name}-{print_}"


def settings_of(store: str, target: str, out: Path) -> dict[str, Any]:
    """The fit as options of ``lensbench lens future``."""
    return {"store": store, "ahead": ",".join(map(str, AHEAD)), "target": target, "out": str(out)}


def fit(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job does: the command line's own fit, saved below ``out``.

    Raises:
        LensbenchError: see ``fit_future_lens`` and ``future_scores``.
    """
    from lensbench.app.workflows.special_probes import future

    progress("fitting a map for every layer and distance, and scoring it")
    told = future(Path(settings["store"]), model=None, ahead=settings["ahead"],
                  target=settings["target"], out=Path(settings["out"]))  # fmt: skip
    return dict(told["summary"])


def is_fitted(folder: Path) -> bool:
    """Whether both parts of a fit are there."""
    return (folder / FILE).is_file() and (folder / LENS / FILE).is_file()


def scores_of(folder: str) -> "FutureScores":
    """What the fit scored on documents that had no part in it.

    Raises:
        MissingDataError, DamagedDataError: it is not there (any more), or cannot be read.
    """
    return _part(Path(folder))


def lens_of(folder: str) -> "FutureLens":
    """The fitted maps.

    Raises:
        MissingDataError, DamagedDataError: they are not there (any more), or cannot be read.
    """
    return _part(Path(folder) / LENS)


def _part(folder: Path) -> Any:
    from lensbench.results import load

    file = folder / FILE
    if not file.is_file():
        raise MissingDataError(f"no future lens in {folder} (any more); fit it again")
    return once(file, "future", lambda path: load(path.parent))


def scores_figure(folder: str, metric: str, far: int) -> "go.Figure":
    """One metric over the layers at one distance, beside shuffled states, none, and bigrams.

    Raises:
        MissingDataError, DamagedDataError: as :func:`scores_of`.
    """
    from lensbench.plots import lines

    found = scores_of(folder)
    part = scores_frame(folder, metric, far).rename(columns={"value": metric})
    unit = "nats" if metric == "surprisal" else "share of tokens"
    part.attrs["units"] = {metric: unit, "n": "documents"}
    ahead = "the next token" if far == 0 else f"{far} further on"
    figure = lines(
        part.dropna(subset=[metric]), x="layer", y=metric, color="states", low="low", high="high",
        title=f"{METRICS[metric]}: {ahead}", height=380, labels={"layer": "after block"},
        subtitle=f"{found.n_tokens:,} tokens of {found.n_docs:,} held-out documents",
    )  # fmt: skip
    figure.update_yaxes(title={"text": unit}, rangemode="tozero")
    return figure.update_layout(
        legend={"orientation": "h", "y": -0.25, "title": {"text": ""}}
    ).update_xaxes(dtick=1)


def scores_frame(folder: str, metric: str, far: int) -> pd.DataFrame:
    """What that figure draws, kinds of states in words."""
    frame = scores_of(folder).to_frame()
    part = frame.loc[(frame["metric"] == metric) & (frame["ahead"] == far)].reset_index(drop=True)
    part["states"] = [STATES[s] for s in part["states"]]
    return part


def grid_of(ask: FutureAsk) -> "FutureGrid":
    """What every state of the text's shown tokens foretells; run once and kept.

    Raises:
        MismatchError: the lens was fitted on another model.
        LensbenchError: see :func:`lensbench.probes.future_grid`.
    """
    held = held_of(ask.source)

    def run() -> "FutureGrid":
        from lensbench import probes

        lens = lens_of(ask.folder)
        tokens, first = tokens_of(ask.source, held)
        places = range(first, min(tokens.n_pos, first + ask.source.max_tokens))
        with held.lock:
            return probes.future_grid(held.model, lens, tokens, steps=len(lens.ahead),
                                      positions=places)  # fmt: skip

    stamp = (Path(ask.folder) / LENS / FILE).stat().st_mtime_ns
    return _grids.get((ask, stamp, held.model.card.fingerprint), run)


def grid_frame(ask: FutureAsk, far: int) -> pd.DataFrame:
    """One row per layer and token: the token that the state foretells ``far`` further on."""
    grid = grid_of(ask)
    step = grid.ahead.index(far)
    frame = grid.to_frame().loc[:, ["layer", "pos", "token"]]
    frame["says"] = marked(words[step] for row in grid.words for words in row)
    frame["prob"] = grid.prob[:, :, step].ravel()
    frame["prob_without"] = grid.prob_without[:, :, step].ravel()
    return frame


def grid_figure(ask: FutureAsk, far: int) -> "go.Figure":
    """Layers by tokens; a cell says what its state foretells at one distance.

    Raises:
        LensbenchError: as :func:`grid_of`.
    """
    from lensbench.plots import heatmap, visible

    grid, frame = grid_of(ask), grid_frame(ask, far)
    letters = max(2, min(8, 115 // max(len(grid.positions), 1)))
    frame["word"] = [w if len(w) <= letters else f"{w[: letters - 1]}…" for w in frame["says"]]
    shown = {int(p): visible(grid.tokens[p]) for p in grid.positions}
    ahead = "the next token" if far == 0 else f"the token {far} after the next one"
    return heatmap(
        frame, x="pos", y="layer", value="prob", text="word" if len(frame) <= 600 else None,
        span=(0.0, 1.0), x_labels=shown, hover_columns=("token", "says", "prob", "prob_without"),
        title=f"Future lens: {ahead}",
        subtitle=f"n = 1 text, {len(grid.positions)} tokens; cell: its most probable token",
        labels={"pos": "token of the state", "layer": "after block", "prob": "its probability",
                "prob_without": "the same of no state"},
    )  # fmt: skip


def had_part(ask: FutureAsk) -> bool:
    """Whether the text is one of those that the lens was fitted on."""
    if ask.source.store != ask.fitted:
        return False
    first, end = lens_of(ask.folder).docs
    return first <= document_of(ask.fitted, ask.source.row) < end


def cell_of(ask: FutureAsk, position: int, layer: int) -> pd.DataFrame:
    """One state: what it foretells at every distance, beside bigrams and the text itself.

    ``bigram`` is what most often stands there after this token in the store's other documents.

    Raises:
        ConfigError: a cell that is not there.
    """
    grid, held = grid_of(ask), held_of(ask.source)
    places = grid.positions.tolist()
    if position not in places or layer not in grid.layers:
        raise ConfigError(f"there is no cell at token {position} after block {layer}; tokens "
                          f"{places[0]} to {places[-1]}, layers {grid.layers}")  # fmt: skip
    i, j = grid.layers.index(layer), places.index(position)
    tokens, _ = tokens_of(ask.source, held)
    ids = tokens.ids[0].tolist()
    rows: list[dict[str, Any]] = []
    for step, far in enumerate(grid.ahead):
        word, share, n = _bigram(ask, ids[position], far)
        at = position + far + 1
        rows.append({
            "ahead": far, "says": grid.words[i][j][step], "prob": float(grid.prob[i, j, step]),
            "prob_without": float(grid.prob_without[i, j, step]), "bigram": word,
            "bigram_share": share, "bigram_n": n,
            "text": grid.tokens[at] if at < len(grid.tokens) else "",
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(**{n: marked(frame[n]) for n in ("says", "bigram", "text")})


def _bigram(ask: FutureAsk, token: int, far: int) -> tuple[str, float, int]:
    """The most frequent token so far after this one, its share, and of how many."""
    from lensbench.probes.lenses.future.pairs import linked

    store = hold_store(ask.fitted)
    index = store.index()
    rows = np.flatnonzero(index.token_ids == token)
    rows = rows[linked(index, slice(0, len(index.token_ids)), far + 1)[rows]]
    if ask.source.store == ask.fitted:
        rows = rows[index.doc_ids[rows] != document_of(ask.fitted, ask.source.row)]
    if not len(rows):
        return "", float("nan"), 0
    found, counts = np.unique(index.token_ids[rows + far + 1], return_counts=True)
    best = int(counts.argmax())
    [word] = token_texts(model_of(store).model.tokenizer, [int(found[best])])
    return word, float(counts[best] / len(rows)), len(rows)


def stores_of(names: dict[str, str], source: LensAsk) -> list[str]:
    """Names of the stores of the source's model whose streams a fit can read, its own first."""
    card = held_of(source).model.card
    found: list[str] = []
    for name, url in names.items():
        try:
            store = hold_store(url)
            fits = store.model.get("fingerprint") == card.fingerprint
            last = f"blocks.{card.n_layers - 1}.resid_post" in store.sites
        except LensbenchError:  # damaged: its own page says so
            continue
        if fits and last:
            found.append(name)
    return sorted(found, key=lambda name: names[name] != source.store)
