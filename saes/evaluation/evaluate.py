"""``evaluate``: every dictionary of a sweep on the same tokens, with the model run once for all.

1. Whole documents are drawn from the store; one pass gives the mean of every site.
2. A second pass encodes each block of rows with every dictionary of the site, once: reconstruction
   metrics, densities, and the latents that steps 4 and 5 read.
3. CE and KL with the site replaced, live (:mod:`lensbench.saes.evaluation.ce`); needs the model.
   Random dictionaries are replaced beside the trained ones.
4. For every label the best single latent beside its controls
   (:mod:`lensbench.saes.evaluation.labels`).
5. The other measures of the suite on those latents (:mod:`lensbench.saes.evaluation.suite`).

What cannot be measured (no model, no labels, too few documents for two halves, no second seed) is
left out, and the result says why. A transcoder reads one site and is scored on the one it writes;
crosscoders have :func:`~lensbench.saes.sharing.compare_sites`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError, MismatchError
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.saes.evaluation import core, data
from lensbench.saes.evaluation import labels_table as table
from lensbench.saes.evaluation.controls import implants_recovered
from lensbench.saes.evaluation.kept import Place, place_to_keep
from lensbench.saes.evaluation.labelled import labelled
from lensbench.saes.evaluation.passes import (
    Dictionary,
    as_list,
    check_trained_on,
    to_score,
)
from lensbench.saes.evaluation.result import SAEEvaluation
from lensbench.saes.evaluation.scores import columns
from lensbench.saes.evaluation.seen import disclosure, seen_in_training
from lensbench.saes.evaluation.settings import EvaluationConfig as EvaluationConfig
from lensbench.saes.evaluation.settings import chosen
from lensbench.saes.evaluation.suite import label_scores
from lensbench.saes.evaluation.suite_pairs import seed_scores
from lensbench.saes.evaluation.twin import read_twins
from lensbench.saes.evaluation.work import Work, keeps

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.store import ActivationStore
    from lensbench.worlds.corpora import LabelledCorpus


@torch.no_grad()
def evaluate(
    runs: Any,
    store: "ActivationStore",
    model: "Model | None" = None,
    *,
    suite: str | Sequence[str] | None = None,
    labels: Any = None,
    heldout: "ActivationStore | None" = None,
    twin: "tuple[Any, ActivationStore] | None" = None,
    implants: Float[Tensor, "directions d_model"] | None = None,
    atoms: Any = None,
    corpus: "LabelledCorpus | None" = None,
    config: EvaluationConfig | Mapping[str, Any] | None = None,
    save: bool | Place = False,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> SAEEvaluation:
    """Evaluate the dictionaries of a sweep together; see the module for the steps.

    Args:
        runs: training runs (:class:`~lensbench.saes.SAERun`), SAEs, transcoders or
            :class:`~lensbench.saes.evaluation.passes.Dictionary` values; a list, or one of them.
        store: activations of the sites they were trained on (of transcoders, both).
        model: the model of the store; without it CE and KL are left out, and first letters (they
            need its tokenizer).
        suite: names of measures, or ``all``; instead of that of ``config``.
        labels: your own yes/no labels, by name: one truth value per row of the store, or per
            document; instead of those that come with the text.
        heldout: another store whose rows score what was chosen on ``store``.
        twin: one run or more trained on the re-initialised twin of the model (matched by name, else
            the first for all), and the twin's store (of the same text): a control of every measure.
        implants: directions that were planted in the training activations; what share of them is
            a decoder row is reported, beside the same for as many random directions.
        atoms: directions that the activations are known to be made of, ``[atoms, d_model]``.
        corpus: labels of the store's text, where its manifest does not name them.
        config: how much to look at, as a config or a dictionary of its keys.
        save: keep it in the folder of the run that the dictionaries are of (True), or in that of
            another (a path): ``RUN/evaluation``, where pages, reports and
            :func:`~lensbench.saes.open_evaluation` find it.
        overwrite: replace the evaluation that is kept there.
        progress: called with a line of text now and then.

    Raises:
        ConfigError: no runs, two of one name, something that is no dictionary, settings with a
            fault, CE of a model that predicts no next token, a transcoder without a target, or
            ``save`` without a run folder or where an evaluation is kept already.
        UnknownNameError: a measure that there is not; offers the nearest.
        MismatchError: a model, text, width or labels that do not belong to the store.

    Example:
        >>> result = saes.evaluate(
        ...     runs, store, model, config={"max_tokens": 1000, "ce_sequences": 4}
        ... )
        >>> frame = result.wide_frame()[["name", "l0", "fvu", "ce_recovered_zero"]]
    """
    began = time.perf_counter()
    if not isinstance(config, EvaluationConfig):
        config = EvaluationConfig.parse(dict(config or {}))
    if suite is not None:
        config = config.model_copy(update={"suite": chosen(suite)})
    asked = as_list(runs)
    place = place_to_keep(asked, save, overwrite=overwrite)  # a slip is told before the work
    dictionaries = [to_score(run) for run in asked]
    _check(dictionaries, store, model)
    scored_by = model if config.asks("core") and config.ce_sequences else None
    if scored_by is not None:
        scored_by.require_next_token("CE recovered (ce_sequences=0 leaves it out)")
    rows = data.choose_rows(store, config.max_tokens, config.seed, config.documents)  # 1
    known = labelled(store, heldout, corpus, labels, rows, config)
    if twin is not None and heldout is not None:
        raise MismatchError("a twin is compared on one store; leave out heldout= or twin=")
    twins = read_twins(twin, rows, config.batch_size, keeps(config, known))
    tokenizer = getattr(model, "tokenizer", None)
    names = [d.name for d in dictionaries]
    work = Work(store, rows, config, known, scored_by, tokenizer, implants, twins, tuple(names),
                progress)  # fmt: skip
    for ends in dict.fromkeys(d.ends for d in dictionaries):
        work.site(ends, [d for d in dictionaries if d.ends == ends])
    found = work.suite.found
    if config.asks("seeds"):
        seed_scores(found, dictionaries, atoms, work.twins, config)
    pairs = zip(dictionaries, asked, strict=True)
    seen = {d.name: seen_in_training(run, store) for d, run in pairs}
    label_columns = table.stacked([work.tables[n] for n in names if n in work.tables])
    losses = work.losses
    left_out = found.reasons(names)
    if config.asks("labels") and not label_columns:
        left_out["labels"] = known.split
    result = SAEEvaluation(
        **core.arrays(dictionaries, work.metrics),
        n_tokens=len(rows),
        n_documents=rows.n_docs,
        n_scored=int(losses[0].columns()["tokens"].sum()) if losses else 0,
        n_sequences=min(config.ce_sequences, data.n_sequences(store, config.documents))
        if losses
        else 0,
        density={n: work.density[n] for n in names},
        labels=label_columns,
        split=known.split,
        seen=seen,
        scores=columns([*found.rows, *label_scores(label_columns)]),
        suite=found.details,
        left_out=left_out,
        layers_run=sum(x.layers_run for x in losses),
        layers_separate=sum(x.layers_separate for x in losses),
        layers_separate_shared=sum(x.layers_separate_shared for x in losses),
        layers_controls=sum(x.layers_controls for x in losses),
        config=config.to_dict(),
        controls=_controls(label_columns, known.split, seen, dictionaries, work),
        provenance=record(
            model=store.model, seed=config.seed, seconds=time.perf_counter() - began, store=store
        ),
    )
    if place is not None:
        result.save(place)
    return result


def _check(
    dictionaries: Sequence[Dictionary], store: "ActivationStore", model: "Model | None"
) -> None:
    names = [d.name for d in dictionaries]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"evaluate needs dictionaries with names of their own, got {names}")
    for d in dictionaries:
        both = ((d.site, "reads", "d_in"), (d.writes, "writes", "d_out"))
        for site, verb, name in both if d.target else both[:1]:
            width = store.width(site)
            expects = getattr(d.codec, name if d.target else "d_model", None)
            if expects is not None and expects != width:
                raise MismatchError(f"{d.name} {verb} {expects} numbers; {site} has {width}")
        check_trained_on(d, store)
    if model is not None:
        store.check_model(model.card)


def _controls(
    label_columns: Mapping[str, Any],
    split: str,
    seen: Mapping[str, str],
    dictionaries: Sequence[Dictionary],
    work: Work,
) -> Controls:
    means = table.means(label_columns)
    values = {f"label F1 of {name.replace('_', ' ')}": f1 for name, f1 in means.items()}
    for source in ("random_dictionary", "skip_alone", "reinitialised_twin"):
        for metric, told in (("fvu", "FVU"), ("ce_recovered_zero", "CE recovered (zero)")):
            found = [
                score.value
                for measure, _, score in work.suite.found.rows
                if (measure, score.metric, score.source) == ("core", metric, source)
            ]
            if found:
                values[f"{told} of {source.replace('_', ' ')}"] = float(np.mean(found))
    readers = [d for d in dictionaries if not d.target]
    if work.implants is not None and readers:
        seed = work.config.seed
        chance = [implants_recovered(d.codec, work.implants, seed)[1] for d in readers]
        values["random directions recovered"] = float(np.mean(chance))
    means = "each label F1 is a mean over labels and dictionaries, on the scoring half"
    notes = [means if label_columns else split, work.twins.told(dictionaries) if work.twins else ""]
    return Controls(values, "; ".join(n for n in (*notes, disclosure(seen)) if n))
