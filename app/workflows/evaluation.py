"""Evaluating a run: metrics with controls, dashboards of latents, the lens, all kept in the run.

``RUN/evaluation/`` holds the evaluation, ``latents/<dictionary>/`` the dashboards, ``lens/`` and
``lens_grid/`` what the store's residual stream says, ``words.json`` the text of every token id that
is shown, so that a report needs neither model nor store.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import io
from lensbench.app.workflows.dictionaries import runs_or_foreign
from lensbench.app.workflows.latents import chosen_latents, records
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.quality import core_controls, measures_of, read_labels, two_labels
from lensbench.app.workflows.runs import EVALUATION, TWIN, parts_of
from lensbench.app.workflows.twins import trained_twin
from lensbench.config import load_yaml
from lensbench.errors import MissingDataError, UnknownNameError
from lensbench.probes.lenses.grid import LensGrid, lens_grid
from lensbench.probes.lenses.logit import LensTrajectory, logit_lens, stored_layers
from lensbench.saes import evaluate
from lensbench.saes.evaluation.against_sae_lens import against_sae_lens
from lensbench.saes.evaluation.evaluate import EvaluationConfig
from lensbench.saes.evaluation.kept import refuse_to_replace
from lensbench.saes.evaluation.labelled import check_labels
from lensbench.saes.evaluation.passes import as_dictionary, check_trained_on, to_score
from lensbench.saes.evaluation.result import SAEEvaluation
from lensbench.saes.evaluation.settings import chosen
from lensbench.saes.latents.dashboard import DashboardConfig, dashboards
from lensbench.saes.latents.result import LatentDashboard
from lensbench.saes.runs import SWEEP_FILE, SAERun
from lensbench.store import open_store
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.store import ActivationStore

HEADLINE = (
    "l0",
    "fvu",
    "ce_recovered_zero",
    "ce_recovered_mean",
    "kl_reconstructed",
    "dead_fraction",
)
Say = Callable[..., None]


def evaluate_run(
    run: Path,
    store: Path,
    model: str,
    *,
    revision: str | None = None,
    suite: str = "core,labels",
    labels: Path | None = None,
    scr_labels: str | None = None,
    documents: tuple[int, int] | None = None,
    ce_sequences: int = 256,
    twin: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    out: Path | None = None,
    progress: Say | None = None,
) -> dict[str, Any]:
    """Evaluate every dictionary of ``run`` (or a foreign one) by names, save the results, sum up.

    ``twin`` trains the first one again on a re-initialised model (in ``run/twin``), one more
    control of every measure. ``scr_labels`` names two, a comma between them. ``documents`` are the
    first and one after the last that are looked at. An evaluation that is there stays, unless
    ``overwrite``.

    Raises:
        ConfigError: the run was evaluated already; or ``scr_labels`` are not two that scr can use,
            or are given without scr.
        UnknownNameError: a measure, or a label of ``scr_labels``, that there is not.
        MissingDataError, MismatchError, DamagedDataError: run, store and model do not fit or are
            not there.
    """
    names = chosen([name.strip() for name in suite.split(",") if name.strip()])
    settings: dict[str, Any] = {"suite": names, "ce_sequences": ce_sequences, "seed": seed,
                                "documents": documents}  # fmt: skip
    if scr_labels is not None:
        settings["scr_labels"] = two_labels(scr_labels, names)
    config = EvaluationConfig.parse(settings)
    own = None if labels is None else read_labels(labels)
    runs, opened = scored(run, progress), open_store(store)
    for one in map(to_score, runs):
        for site in one.ends:
            opened.require(site)
        check_trained_on(one, opened)
    # Before the model is loaded and a twin is trained: a slip costs neither.
    check_labels(opened, own, config)
    network = open_model(model, revision)
    opened.check_model(network.card)
    if not overwrite:
        refuse_to_replace(out or run)
    control = _twin(run, runs[0], opened, network, seed, progress) if twin else None
    return evaluate_all(out or run, runs, opened, network, config, labels=own, twin=control,
                        progress=progress)  # fmt: skip


def compare_run(
    run: Path,
    store: Path,
    model: str,
    against: str,
    *,
    revision: str | None = None,
    sequences: int = 256,
) -> dict[str, Any]:
    """Every dictionary of ``run`` through a peer's own evaluation, beside ours.

    Raises:
        UnknownNameError: no such peer.
        BackendUnavailableError: the peer is not installed.
    """
    if against not in ("sae_lens",):
        raise UnknownNameError("peer to evaluate against", against, known=("sae_lens",))
    runs, opened = scored(run, None, ("sae",)), open_store(store)
    network = open_model(model, revision)
    opened.check_model(network.card)
    found = [against_sae_lens(one, opened, network, sequences=sequences) for one in runs]
    return {
        "against": against,
        "version": found[0].version,
        "on": found[0].on,
        "largest": max(one.largest for one in found),
        "dictionaries": [{"name": f.name, "rows": records(f.to_frame())} for f in found],
    }


def scored(
    run: Path, progress: Say | None, roles: tuple[str, ...] = ("sae", "transcoder")
) -> list[SAERun]:
    """The dictionaries of a run that can be scored; what else it holds is named and left out.

    Raises:
        MismatchError: it holds none.
    """
    runs = runs_or_foreign(run)
    kept = [one for one in runs if one.role in roles]
    if not kept:
        as_dictionary(runs[0])  # says what to do instead
    for one in runs:
        if one.role not in roles:
            (progress or _silent)(f"left out, because it is a {one.role}: {one.name}")
    return kept


def _twin(
    run: Path,
    like: SAERun,
    store: "ActivationStore",
    model: "Model",
    seed: int,
    progress: Say | None,
) -> "tuple[SAERun, ActivationStore]":
    (progress or _silent)("the control: a twin of the model with random weights")
    settings = load_yaml(parts_of(run)[0] / SWEEP_FILE)["train"]
    return trained_twin(like, settings, store, model, run / TWIN, seed=seed, progress=progress)


def evaluate_all(
    run: Path,
    runs: list[SAERun],
    store: "ActivationStore",
    model: "Model",
    config: EvaluationConfig,
    *,
    labels: Mapping[str, Any] | None = None,
    twin: "tuple[SAERun, ActivationStore] | None" = None,
    lens_tokens: int = 10_000,
    progress: Say | None = None,
) -> dict[str, Any]:
    """The same on opened things; ``twin`` is one more control of every measure."""
    say = progress or _silent
    noun = "dictionary" if len(runs) == 1 else "dictionaries"
    say(f"{len(runs)} {noun} on {store.n_tokens:,} stored tokens")
    result = evaluate(
        runs, store, model, labels=labels, twin=twin, config=config, progress=progress
    )
    result.save(run / EVALUATION)
    say("latents")
    boards = _dashboards(run, runs, store, model, result, config.seed)
    say("logit lens")
    lens, grid = _lens(run, store, model, lens_tokens, config.seed)
    _save_words(run, boards, model)
    facts = summarise(result)
    facts["saved"] = str(run / EVALUATION)
    facts["lens"] = None if lens is None else lens.summary()
    facts["lens_document"] = None if grid is None else grid.document
    return facts


def summarise(result: SAEEvaluation) -> dict[str, Any]:
    """One row per dictionary with the headline metrics and its mean label F1, and the controls."""
    wide = result.wide_frame()
    shown = [m for m in HEADLINE if m in wide.columns]
    labels = result.labels_frame() if result.labels else None
    rows: list[dict[str, Any]] = []
    for row in records(wide):
        kept = {"name": row["name"], "site": row["site"], **{m: float(row[m]) for m in shown}}
        if labels is not None:
            kept["label_f1"] = float(labels.loc[labels["name"] == row["name"], "f1"].mean())
        rows.append(kept)
    return {
        "dictionaries": rows,
        "tokens": result.n_tokens,
        "documents": result.n_documents,
        "summary": result.summary(),
        "disclosure": result.disclosure,
        "scored": _scored(result),
        "controls": f"{result.controls}{'' if result.labels else f' ({result.split})'}",
        "core_controls": core_controls(result),
        "measures": measures_of(result),
        "left_out": dict(result.left_out),
    }


def _scored(result: SAEEvaluation) -> str:
    """What the numbers were measured on, in words."""
    stored = f"on {result.n_tokens:,} stored tokens of {result.n_documents:,} documents"
    if not result.n_scored:
        return f"{stored}; no CE (--ce-sequences 0)"
    of = f" of {result.n_sequences:,} sequences" if result.n_sequences else ""
    return f"{stored}; CE on {result.n_scored:,} predicted tokens{of}"


def _dashboards(
    run: Path,
    runs: list[SAERun],
    store: "ActivationStore",
    model: "Model",
    result: SAEEvaluation,
    seed: int,
) -> list[LatentDashboard]:
    by_name = {one.name: one for one in runs}
    boards: list[LatentDashboard] = []
    for name, latents in chosen_latents(result, seed=seed).items():
        config = DashboardConfig(max_tokens=150_000, per_band=2, seed=seed)
        board = dashboards(by_name[name], store, latents, model, config=config)
        board.save(run / EVALUATION / "latents" / name)
        boards.append(board)
    return boards


def _lens(
    run: Path, store: "ActivationStore", model: "Model", tokens: int, seed: int
) -> tuple[LensTrajectory | None, LensGrid | None]:
    """The lens, where the store has the residual stream after the last block."""
    try:
        stored_layers(store, model)
    except MissingDataError:
        return None, None
    lens = logit_lens(store, model, max_tokens=tokens, seed=seed)
    grid = lens_grid(store, model, _telling_document(store, seed), max_positions=24)
    lens.save(run / EVALUATION / "lens")
    grid.save(run / EVALUATION / "lens_grid")
    return lens, grid


def _telling_document(store: "ActivationStore", seed: int) -> int:
    """A document at random among those with 12 to 24 stored tokens (else the longest)."""
    docs, counts = np.unique(store.index().doc_ids, return_counts=True)
    fit = docs[(counts >= 12) & (counts <= 24)]
    if not len(fit):
        return int(docs[counts.argmax()])
    return int(np.random.default_rng(seed).choice(fit))


def _save_words(run: Path, boards: list[LatentDashboard], model: "Model") -> None:
    ids: set[int] = set()
    for board in boards:
        for array in (board.tokens, board.top_tokens, board.low_tokens):
            ids |= {int(i) for i in np.unique(array) if i >= 0}
    order = sorted(ids)
    words = dict(zip(map(str, order), token_texts(model.tokenizer, order), strict=True))
    io.write_json(run / EVALUATION / "words.json", words)


def _silent(*_: Any, **__: Any) -> None:
    return
