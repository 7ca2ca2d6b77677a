"""One latent on a page: the table it is found in, its dashboard, and what it does on a new text."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import (
    Shelf,
    hold_latents,
    hold_runs,
    hold_store,
    running,
    store_version,
)
from lensbench.app.workflows.runs import EVALUATION, evaluation_of
from lensbench.app.workflows.sequences import model_name, words_of
from lensbench.app.workflows.stores import find_stores
from lensbench.errors import (
    DamagedDataError,
    LensbenchError,
    MissingDataError,
    UnknownNameError,
)
from lensbench.plots import visible
from lensbench.results import load
from lensbench.saes.evaluation.labels_table import best_of_latents
from lensbench.saes.evaluation.passes import as_dictionary, check_trained_on
from lensbench.saes.evaluation.seen import NO, ROWS, TEXT, UNKNOWN, seen_in_training
from lensbench.saes.latents.dashboard import (
    DashboardConfig,
    dashboards,
    encode_store_rows,
)
from lensbench.saes.latents.result import LatentDashboard

if TYPE_CHECKING:
    from lensbench.saes.runs import SAERun
    from lensbench.store import ActivationStore

BOARD = DashboardConfig(max_tokens=100_000, per_band=3)
"""How much a dashboard that is made on the page looks at."""
MOST_ACTIVE = 20_000_000
"""Non-zero latents kept in memory for the next dashboard (8 bytes each); above it, none are."""
_own: Shelf[Path] = Shelf(256)


def dictionary_of(run: Path, name: str) -> "SAERun":
    """A finished dictionary of a run.

    Raises:
        MissingDataError: none is finished yet.
        UnknownNameError: no dictionary of that name.
    """
    runs = {one.name: one for one in hold_runs(run)}
    if not runs:
        raise MissingDataError(f"no dictionary of {run.name} is finished yet")
    if name not in runs:
        raise UnknownNameError("dictionary", name, known=list(runs))
    return runs[name]


def store_of(run: Path, name: str, root: Path) -> Path:
    """The store of the text a dictionary was trained on, or another below ``root`` that fits it.

    Raises:
        MissingDataError: none is here of its model and site.
    """
    chosen = dictionary_of(run, name)
    dictionary = as_dictionary(chosen, encoded=True)
    fit: dict[Path, ActivationStore] = {}
    for folder in find_stores(root):
        try:
            store = hold_store(str(folder))
            store.require(dictionary.site)
            check_trained_on(dictionary, store)
        except LensbenchError:
            continue
        fit[folder] = store
    if len(fit) == 1:
        return next(iter(fit))
    if fit:
        key = (str(run), name, *((str(f), store_version(str(f))) for f in fit))
        order = (ROWS, TEXT, UNKNOWN, NO)
        return _own.get(key, lambda: min(
            fit, key=lambda f: order.index(seen_in_training(chosen, fit[f]))))  # fmt: skip
    raise MissingDataError(
        f"no store below the folder shown holds {dictionary.site} of the model that {name} was "
        "trained on; capture one: lensbench capture --model M --text T "
        f"--sites {dictionary.site} --out acts"
    )


def latent_table(run: Path, name: str) -> pd.DataFrame:
    """One row per latent: density, and the label it matches best with its control.

    Labels and densities are those of the run's evaluation; without one the table holds numbers of
    the weights alone.
    """
    sae: Any = dictionary_of(run, name).coder
    frame = pd.DataFrame({"latent": np.arange(sae.d_sae)})
    frame["decoder_norm"] = sae.W_dec.float().norm(dim=1).cpu().numpy()
    frame["encoder_bias"] = sae.b_enc.float().cpu().numpy()
    result = evaluation_of(run)
    if result is not None and name in result.density:
        frame.insert(1, "density", np.asarray(result.density[name], np.float64))
        if result.labels:
            frame = frame.merge(best_of_latents(result.labels_frame(), name), "left", on="latent")
    weights = ["encoder_bias", "decoder_norm"]
    frame = pd.DataFrame(frame[[*[c for c in frame.columns if c not in weights], *weights]])
    frame.attrs["units"] = {"density": "share of tokens", "f1": "F1", "control": "F1"}
    frame.attrs["n_tokens"] = 0 if result is None else result.n_tokens
    return frame


def label_line(table: pd.DataFrame, latent: int) -> str:
    """The label a latent matches best, with interval and control; or that there is none."""
    row: Any = table.loc[table["latent"] == latent].iloc[0]
    if "label" not in table.columns:
        return "No labels: the text has none, or the run was not evaluated."
    if not isinstance(row["label"], str):
        return f"No label has this latent as its best one, of {table['label'].nunique()}."
    return (
        f"Best latent of the label {row['label']!r}: F1 {row['f1']:.2f} [{row['f1_low']:.2f}, "
        f"{row['f1_high']:.2f}], strongest control {row['control']:.2f}."
    )


def saved_board(run: Path, name: str, latent: int) -> LatentDashboard | None:
    """The dashboard that the evaluation kept, where this latent is on it."""
    folder = run / EVALUATION / "latents" / name
    if not (folder / "result.json").is_file():
        return None
    board = load(folder)
    if not isinstance(board, LatentDashboard):
        raise DamagedDataError(f"{folder} holds a {board.kind}, not a LatentDashboard")
    return board if latent in board.latents.tolist() else None


def make_board(run: Path, name: str, latent: int, store: Path) -> LatentDashboard:
    """A dashboard of one latent, from the stored activations and (if it opens) the model.

    Raises:
        ConfigError: no such latent.
    """
    one, held = dictionary_of(run, name), hold_store(str(store))
    encoded = hold_latents(run, name, str(store), lambda: encode_store_rows(
        one, held, config=BOARD, max_active=MOST_ACTIVE))  # fmt: skip
    try:
        with running(*model_name(held)) as model:
            return dashboards(one, held, [latent], model, config=BOARD, encoded=encoded)
    except MissingDataError:  # without the model there are no logit effects, and the board says so
        return dashboards(one, held, [latent], config=BOARD, encoded=encoded)


def words_for(board: LatentDashboard, store: Path) -> dict[int, str]:
    """Text of every token id on a board."""
    arrays = (board.tokens, board.top_tokens, board.low_tokens)
    ids = np.unique(np.concatenate([a.ravel() for a in arrays]))
    ids = ids[ids >= 0]
    words = words_of(hold_store(str(store)), ids)
    return {int(i): word for i, word in zip(ids, words, strict=True)}


def dictionaries_of(run: Path) -> list[str]:
    """Finished dictionaries of a run, by name."""
    return [one.name for one in hold_runs(run)]


@dataclass(frozen=True)
class Passage:
    """A context: words, the activation at each, and the place of the one it is shown for."""

    words: tuple[str, ...]
    values: tuple[float, ...]
    focus: int | None
    largest: float
    times: int = 1
    """Contexts of the same words that this one stands for."""
    row: int = -1
    """Stored row of the token it is shown for."""
    document: int = -1
    first: int = 0
    """Position of the first word in its sequence."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is known of each word: its position and document, and what follows it."""
        after = [*(f"next {visible(word)}" for word in self.words[1:]), ""]
        where = f" of document {self.document}" if self.document >= 0 else ""
        return tuple(
            "".join(f" · {part}" for part in (f"token {self.first + i}{where}", then) if part)
            for i, then in enumerate(after)
        )


def bands_of(
    board: LatentDashboard, latent: int, words: dict[int, str]
) -> dict[str, list[Passage]]:
    """Contexts of a latent by band of activation, strongest first; empty bands are left out.

    Contexts of the same words in one band are one passage (the strongest) with their number.
    """
    i = board.index(latent)
    out: dict[str, list[Passage]] = {}
    for j in np.flatnonzero(board.rows[i] >= 0):
        inside = board.tokens[i, j] >= 0
        text = tuple(words.get(int(t), f"#{t}") for t in board.tokens[i, j, inside])
        values = tuple(float(v) for v in np.nan_to_num(board.acts[i, j, inside]))
        focus = int(inside[: board.before].sum())
        passage = Passage(
            text, values, focus, float(board.max_activation[i]) or 1.0,
            row=int(board.rows[i, j]), document=int(board.doc_ids[i, j]),
            first=int(board.positions[i, j]) - focus,
        )  # fmt: skip
        out.setdefault(board.bands[int(board.band[j])], []).append(passage)
    return {band: _merged(passages) for band, passages in out.items()}


def _merged(passages: list[Passage]) -> list[Passage]:
    """Passages of equal words and focus as one, in the order they came."""
    kept: dict[tuple[object, ...], Passage] = {}
    for passage in passages:
        key = (passage.words, passage.focus)
        before = kept.get(key)
        kept[key] = passage if before is None else replace(before, times=before.times + 1)
    return list(kept.values())


def context_frame(board: LatentDashboard, latent: int, words: dict[int, str]) -> pd.DataFrame:
    """The contexts that are shown: band, activation, text before, at and after, and where from."""
    known = replace(board.one(latent), words={str(i): word for i, word in words.items()})
    return known.contexts_frame().drop(columns="context")
