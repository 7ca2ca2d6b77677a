"""Live runs beside every prediction: equal where it says equal, within bounds where it says so.

Plain decoding and all methods take turns on the same prompts, so that their ratio of CPU time is of
one run. What a class demands is in ``holding``; times are compared, and never demanded.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.acceleration.decoding import Decoded, greedy, native
from lensbench.interventions.acceleration.study.holding import (
    first_draft_agreement,
    forced_quality,
    held,
)
from lensbench.interventions.acceleration.study.methods import Forecast, Method
from lensbench.interventions.acceleration.study.methods_skips import DraftAndVerify, Forcible
from lensbench.interventions.acceleration.study.rows import quality_columns, shared
from lensbench.interventions.acceleration.study.trace import Trace, rates
from lensbench.models.base import Model
from lensbench.progress import bar
from lensbench.tokens import meant

if TYPE_CHECKING:
    from lensbench.interventions.acceleration.study.study import AccelerationStudy

Score = Callable[[tuple[int, ...], tuple[int, ...]], float]
"""What a continuation is worth: told prompt and new tokens."""


@dataclass
class _Runs:
    """Live runs of one method: the first of every document, and seconds of every repetition."""

    first: list[Decoded] = field(default_factory=list[Decoded])
    seconds: list[float] = field(default_factory=list[float])


def verify(
    found: "AccelerationStudy",
    model: Model,
    documents: Sequence[int] | None = None,
    *,
    repeats: int = 1,
    score: Score | None = None,
) -> "AccelerationStudy":
    """Decode the prompts of a study live with every method and fill the measured columns.

    ``held`` says whether a prediction kept what its class demands on these documents, ``held_note``
    the first thing that did not (a document whose layers are undecided within 1e-4 nats is told but
    does not count); ``tested`` whether a lossless method wrote the full model's text.

    Args:
        found: a study of :func:`acceleration_study`.
        model: the model it is of.
        documents: numbers of the texts to run; default: all.
        repeats: times that everything is run, in turns; speed-ups are medians.
        score: accuracy of a continuation, told prompt and new tokens; fills ``task_accuracy``.

    Raises:
        MismatchError: another model.
        ConfigError: a document the study has not, or a text that is no prompt and continuation.
    """
    _check_model(found, model)
    whole_number("repeats", repeats, least=1)
    evidence = found.evidence
    texts = {d.number: d for d in evidence.table.documents()}
    chosen = list(texts) if documents is None else [int(d) for d in documents]
    if not chosen or any(d not in texts for d in chosen):
        raise ConfigError(f"documents of this study are {sorted(texts)}, got {chosen}")
    prompts = [evidence.table.prompts[d] for d in chosen]
    sizes = [texts[d].n_new for d in chosen]
    methods = found.methods
    plain, runs = _Runs(), [_Runs() for _ in methods]
    jobs = [(repeat, *job) for repeat in range(repeats) for job in zip(prompts, sizes, strict=True)]
    with bar("live", len(jobs) * (1 + len(methods)), unit="run") as shown:
        for repeat, prompt, n in jobs:
            _note(plain, repeat, greedy(model, meant(prompt), n))
            shown.update(1)
            for chosen_method, kept in zip(methods, runs, strict=True):
                _note(kept, repeat, chosen_method.live(model, meant(prompt), n, evidence))
                shown.update(1)
    full = [r.new for r in plain.first]
    order = {d: i for i, d in enumerate(texts)}
    rows: list[dict[str, Any]] = []
    for row, chosen_method, kept in zip(found.rows, methods, runs, strict=True):
        forecasts = chosen_method.predict(evidence).documents
        told = [forecasts[order[d]] for d in chosen]
        new = _measured(chosen_method, kept, plain, full, row)
        problems = _problems(model, found, chosen_method, chosen, told, kept.first, full)
        clear = [p for p in problems or () if "near ties" not in p]
        new |= {"held": problems if problems is None else not clear}
        new |= {"held_note": problems[0] if problems else ""}
        new |= _passes(model, found, chosen_method, prompts, full)
        if score is not None:
            new["task_accuracy"] = float(np.mean([score(r.prompt, r.new) for r in kept.first]))
        rows.append({**row, **new})
    return replace(
        found,
        rows=tuple(rows),
        config={**found.config, "verified": chosen, "repeats": repeats},
        provenance=replace(
            found.provenance, when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ),
    )


def _note(kept: _Runs, repeat: int, run: Decoded) -> None:
    if len(kept.seconds) <= repeat:
        kept.seconds.append(0.0)
    kept.seconds[repeat] += run.seconds
    if repeat == 0:
        kept.first.append(run)


def _measured(
    chosen: Method,
    kept: _Runs,
    plain: _Runs,
    full: Sequence[tuple[int, ...]],
    row: dict[str, Any],
) -> dict[str, Any]:
    """Columns of what a live run did and how long it took."""
    ratios = [a / b for a, b in zip(plain.seconds, kept.seconds, strict=True) if b > 0]
    speedup = float(np.median(ratios)) if ratios else float("nan")
    live = [Trace.of(r) for r in kept.first]
    found = rates(live)
    exits = [e for r in kept.first for e in r.exits]
    pairs = list(zip([r.new for r in kept.first], full, strict=True))
    same = [a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=False)]
    return {
        "tested": all(a == b for a, b in pairs) if chosen.lossless else None,
        "meas_speedup": speedup,
        "pred_error": float(row["pred_speedup_calibrated"]) / speedup - 1,
        "meas_acceptance": found.acceptance,
        "meas_acceptance_first": found.first,
        "meas_tokens_per_round": found.tokens_per_round if found.acceptance == found.acceptance
        else float("nan"),
        "meas_mean_exit": float(np.mean(exits)) if exits else float("nan"),
        "meas_layer_tokens": float(sum(r.counts.layer_tokens for r in kept.first)),
        "meas_first_divergence": float(np.mean([shared(a, b) for a, b in pairs])),
        "meas_match": float(np.mean(same)),
        "meas_kv_bytes": float(sum(r.kv_bytes for r in kept.first)),
        "n_verified": float(len(kept.first)),
    }  # fmt: skip


def _problems(
    model: Model,
    found: "AccelerationStudy",
    chosen: Method,
    numbers: Sequence[int],
    told: Sequence[Forecast],
    live: Sequence[Decoded],
    full: Sequence[tuple[int, ...]],
) -> list[str] | None:
    """What did not hold; None where the class demands nothing."""
    evidence = found.evidence
    wanted = "proxy" if not evidence.exact else chosen.prediction_class
    if wanted == "proxy":
        return None
    problems: list[str] = []
    for number, one, run, text in zip(numbers, told, live, full, strict=True):
        if wrong := held(chosen, wanted, one, run, text, model, evidence):
            ties = evidence.table.document(number).ties(_read_layers(one, evidence.n_layers))
            near = f" ({ties} near ties, which rounding may turn)" if ties else ""
            problems.append(f"document {number}{near}: {wrong[0]}")
    return problems


def _read_layers(told: Forecast, n_layers: int) -> set[int]:
    """Exit layers whose choice decides a forecast."""
    if isinstance(told.trace, Trace):
        return {r.exit_layer for r in told.trace.rounds if r.drafted} | {n_layers}
    return {n_layers} if told.trace is None else set(range(1, n_layers + 1))


def _passes(
    model: Model,
    found: "AccelerationStudy",
    chosen: Method,
    prompts: Sequence[tuple[int, ...]],
    full: Sequence[tuple[int, ...]],
) -> dict[str, float]:
    """Predicted columns that take one teacher-forced pass per text."""
    pairs = list(zip(prompts, full, strict=True))
    if isinstance(chosen, Forcible):
        parts = [forced_quality(chosen, model, p, t, found.evidence) for p, t in pairs]
        quality = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        docs = np.repeat(np.arange(len(parts)), [len(p["kl"]) for p in parts])
        return quality_columns(quality, docs, lossless=False)
    if isinstance(chosen, DraftAndVerify):
        agrees = [first_draft_agreement(model, p, t, chosen.skips) for p, t in pairs]
        return {"acceptance_first": float(np.mean(np.concatenate(agrees)))}
    return {}


def _check_model(found: "AccelerationStudy", model: Model) -> None:
    card = native(model).card
    known = found.provenance.model.get("fingerprint")
    if card.fingerprint != known:
        raise MismatchError(
            f"the study is of {found.provenance.model.get('name')} ({known}), not of {card.name} "
            f"({card.fingerprint}); load that model"
        )
