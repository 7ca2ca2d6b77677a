"""``evaluate``: every dictionary of a sweep on the same tokens, with the model run once for all.

1. Whole documents are drawn from the store; one pass gives the mean of every site.
2. A second pass encodes each block of rows with every dictionary of the site: reconstruction
   metrics, densities, and the latents that step 4 needs.
3. CE and KL with the site replaced, live (:mod:`lensbench.saes.evaluation.ce`); needs the model.
4. For every label the best single latent beside its controls
   (:mod:`lensbench.saes.evaluation.labels`).

Without ``model`` step 3 is left out; without a labelled text, or with too few documents for two
halves, step 4 is, and the result says why.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from lensbench.config import Config
from lensbench.errors import ConfigError, MismatchError
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.saes.evaluation import data as data
from lensbench.saes.evaluation import labels_table as table
from lensbench.saes.evaluation.ce import ABLATIONS, LossSums, live_losses
from lensbench.saes.evaluation.controls import LabelMatcher, implants_recovered, twin_latents
from lensbench.saes.evaluation.metrics import dead_fraction
from lensbench.saes.evaluation.passes import (
    Dictionary,
    Pass,
    as_dictionary,
    as_list,
    check_trained_on,
    encode_all,
)
from lensbench.saes.evaluation.result import UNITS, SAEEvaluation
from lensbench.saes.evaluation.seen import disclosure, seen_in_training
from lensbench.saes.evaluation.sums import Measured

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.store import ActivationStore
    from lensbench.worlds.atlas import Corpus

Metrics = dict[str, Measured]
NO_LABELS = "no labels: the store's text names no labelled corpus"


class EvaluationConfig(Config):
    """How much to look at, and what to compare with."""

    max_tokens: int = Field(default=200_000, gt=0)
    """Stored tokens for reconstruction and labels, drawn as whole documents."""
    ce_sequences: int = Field(default=256, ge=0)
    """Sequences for CE and KL, exactly so many from the start of the store; 0 leaves the model out.

    A sequence is a row of the capture: a document or a part of it (``pad``), or several (``pack``).
    """
    batch_size: int = Field(default=4096, gt=0)
    """Tokens encoded at once."""
    sequence_batch: int = Field(default=16, gt=0)
    """Sequences run at once; the batch above the site is (3 + dictionaries) times as large."""
    score_first: bool = False
    """Also score the prediction made at each sequence's first token (BOS)."""
    label_kinds: tuple[Literal["contextual", "lexical"], ...] = ("contextual",)
    """Kinds of labels to match latents with."""
    controls: bool = True
    """Run the random dictionary and the shuffled labels (as dear as the matching itself)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the choice of documents, the controls and the bootstraps."""


@torch.no_grad()
def evaluate(
    runs: Any,
    store: "ActivationStore",
    model: "Model | None" = None,
    *,
    heldout: "ActivationStore | None" = None,
    twin: "tuple[Any, ActivationStore] | None" = None,
    implants: Float[Tensor, "directions d_model"] | None = None,
    corpus: "Corpus | None" = None,
    config: EvaluationConfig | Mapping[str, Any] | None = None,
) -> SAEEvaluation:
    """Evaluate the dictionaries of a sweep together; see the module for the steps.

    Args:
        runs: training runs (:class:`~lensbench.saes.SAERun`), SAEs or
            :class:`~lensbench.saes.evaluation.passes.Dictionary` values; a list, or one of them.
        store: activations of the sites they were trained on.
        model: the model of the store; without it CE and KL are left out.
        heldout: another store whose rows score what was chosen on ``store``.
        twin: a run trained on the re-initialised twin of the model, and the twin's store (of the
            same text): one more control of the label table.
        implants: directions that were planted in the training activations; what share of them is
            a decoder row is reported, beside the same for as many random directions.
        corpus: labels of the store's text, where its manifest does not name them.
        config: how much to look at, as a config or a dictionary of its keys.

    Raises:
        ConfigError: no runs, two of one name, something that is no dictionary, settings with a
            fault, or CE of a model that predicts no next token.
        MismatchError: a model, text or width that does not belong to the store.
    """
    began = time.perf_counter()
    if not isinstance(config, EvaluationConfig):
        config = EvaluationConfig.parse(dict(config or {}))
    asked = as_list(runs)
    dictionaries = [as_dictionary(run) for run in asked]
    _check(dictionaries, store, model)
    if model is not None and config.ce_sequences:
        model.require_next_token("CE recovered (ce_sequences=0 leaves it out)")
    rows = data.choose_rows(store, config.max_tokens, config.seed)  # 1
    matcher, split = _matcher(store, heldout, corpus, rows, config)
    beside: dict[str, Any] = {}
    if matcher is not None and twin is not None:
        beside["reinitialised_twin"] = (twin_latents(matcher, *twin, rows), matcher.labels)
    metrics: dict[str, Metrics] = {}
    density: dict[str, np.ndarray] = {}
    losses: list[LossSums] = []
    tables: dict[str, dict[str, Any]] = {}
    for site in dict.fromkeys(d.site for d in dictionaries):
        here = [d for d in dictionaries if d.site == site]
        passed = encode_all(store, site, rows, here, config.batch_size, matcher is not None)  # 2
        loss = None
        if model is not None and config.ce_sequences:  # 3
            loss = _losses(model, store, site, here, passed, config)
            losses.append(loss)
        for d in here:
            density[d.name] = passed.sums[d.name].density
            metrics[d.name] = _metrics(d, passed, loss, implants, config.seed)
            if matcher is not None:  # 4
                tables[d.name] = matcher.match(d, passed, beside, with_controls=config.controls)
    pairs = zip(dictionaries, asked, strict=True)
    seen = {d.name: seen_in_training(run, store) for d, run in pairs}
    columns = table.stacked([tables[d.name] for d in dictionaries if d.name in tables])
    return SAEEvaluation(
        **_arrays(dictionaries, metrics),
        n_tokens=len(rows),
        n_documents=rows.n_docs,
        n_scored=int(losses[0].columns()["tokens"].sum()) if losses else 0,
        n_sequences=min(config.ce_sequences, data.n_sequences(store)) if losses else 0,
        density={d.name: density[d.name] for d in dictionaries},
        labels=columns,
        split=split,
        seen=seen,
        layers_run=sum(x.layers_run for x in losses),
        layers_separate=sum(x.layers_separate for x in losses),
        layers_separate_shared=sum(x.layers_separate_shared for x in losses),
        config=config.to_dict(),
        controls=_controls(columns, split, seen, dictionaries, implants, config.seed),
        provenance=record(model=store.model, seed=config.seed, seconds=time.perf_counter() - began),
    )


def _check(
    dictionaries: Sequence[Dictionary], store: "ActivationStore", model: "Model | None"
) -> None:
    names = [d.name for d in dictionaries]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"evaluate needs dictionaries with names of their own, got {names}")
    for d in dictionaries:
        width, expects = store.width(d.site), getattr(d.codec, "d_model", None)
        if expects is not None and expects != width:
            raise MismatchError(f"{d.name} reads {expects} numbers; {d.site} has {width}")
        check_trained_on(d, store)
    if model is not None:
        store.check_model(model.card)


def _matcher(
    store: "ActivationStore",
    heldout: "ActivationStore | None",
    corpus: "Corpus | None",
    rows: data.EvaluationRows,
    config: EvaluationConfig,
) -> tuple[LabelMatcher | None, str]:
    """What matches labels, and what separates the halves; None and the reason without labels."""
    corpus = corpus or data.corpus_of(store)
    if corpus is None:
        return None, NO_LABELS
    if heldout is None:
        labels, why = data.labels_or_why_not(rows, corpus, config.label_kinds)
        if labels is None:
            return None, why
        parts = [(store, rows)]
    else:
        other = data.corpus_of(heldout)
        if other is None:
            raise MismatchError("the held-out store names no labelled corpus to score on")
        more = data.choose_rows(heldout, config.max_tokens, config.seed)
        labels = data.labelled_pair(rows, corpus, more, other, config.label_kinds)
        parts = [(store, rows), (heldout, more)]
    matcher = LabelMatcher(labels, parts, batch_size=config.batch_size, seed=config.seed)
    return matcher, labels.split


def _losses(
    model: "Model",
    store: "ActivationStore",
    site: str,
    here: Sequence[Dictionary],
    passed: Pass,
    config: EvaluationConfig,
) -> LossSums:
    return live_losses(
        model,
        site,
        [d.codec for d in here],
        data.scored_sequences(store, config.ce_sequences, config.sequence_batch),
        passed.mean,
        names=[d.name for d in here],
        score_first=config.score_first,
    )


def _metrics(
    dictionary: Dictionary,
    passed: Pass,
    losses: LossSums | None,
    implants: Float[Tensor, "directions d_model"] | None,
    seed: int,
) -> Metrics:
    sums = passed.sums[dictionary.name]
    found: Metrics = dict(sums.metrics(seed))
    found["dead_fraction"] = _plain(dead_fraction(sums.density), len(sums.density))
    if losses is not None:
        found |= _fidelity(losses, dictionary.name, seed)
    if implants is not None:
        share, _ = implants_recovered(dictionary.codec, implants, seed)
        found["implants_recovered"] = _plain(share, len(implants))
    return found


def _fidelity(losses: LossSums, name: str, seed: int) -> Metrics:
    out = {
        "ce_clean": losses.per_token("ce/clean", seed=seed),
        "ce_zero_ablated": losses.per_token("ce/zero", seed=seed),
        "ce_mean_ablated": losses.per_token("ce/mean", seed=seed),
        "ce_reconstructed": losses.per_token(f"ce/{name}", seed=seed),
        "kl_reconstructed": losses.per_token(f"kl/{name}", seed=seed),
    }
    for quantity in ("ce", "kl"):
        for baseline in ABLATIONS:
            out[f"{quantity}_recovered_{baseline}"] = losses.recovered(
                quantity, name, baseline, seed=seed
            )
    return out


def _plain(value: float, n: int) -> Measured:
    """A count over latents or directions: exact, so without an interval."""
    return Measured(value, float("nan"), float("nan"), n)


def _arrays(dictionaries: Sequence[Dictionary], metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    present = {m for found in metrics.values() for m in found}
    names = tuple(m for m in UNITS if m in present)
    grid = [[metrics[d.name][m] for m in names] for d in dictionaries]
    return {
        "names": tuple(d.name for d in dictionaries),
        "sites": tuple(d.site for d in dictionaries),
        "architectures": tuple(d.architecture for d in dictionaries),
        "metrics": names,
        "values": np.array([[(m.mean, m.low, m.high) for m in row] for row in grid]),
        "counts": np.array([[m.n for m in row] for row in grid], np.int64),
        "undefined": np.array([[m.n_undefined for m in row] for row in grid], np.int64),
    }


def _controls(
    columns: Mapping[str, Any],
    split: str,
    seen: Mapping[str, str],
    dictionaries: Sequence[Dictionary],
    implants: Float[Tensor, "directions d_model"] | None,
    seed: int,
) -> Controls:
    values = {
        f"label F1 of {name.replace('_', ' ')}": f1 for name, f1 in table.means(columns).items()
    }
    if implants is not None:
        chance = [implants_recovered(d.codec, implants, seed)[1] for d in dictionaries]
        values["random directions recovered"] = float(np.mean(chance))
    means = "each label F1 is a mean over labels and dictionaries, on the scoring half"
    return Controls(values, f"{means if columns else split}; {disclosure(seen)}")
