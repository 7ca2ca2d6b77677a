"""One row of the study: what a prediction says, in the columns that every method shares."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lensbench.interventions.acceleration.study.cost import serial_calls
from lensbench.interventions.acceleration.study.methods import Evidence, Method, Prediction
from lensbench.interventions.acceleration.study.trace import (
    ExitTrace,
    Trace,
    expected_tokens,
    rates,
)
from lensbench.interventions.acceleration.study.work import Work, work_plain
from lensbench.stats import bootstrap_mean, mean_there

NAN = float("nan")
UNITS = {
    "agreement": "share of tokens",
    "kl": "KL(full ‖ accelerated) [nats]",
    "perplexity": "exp(nats)",
    "first_divergence": "new tokens before it",
    "layers_per_token": "layers",
    "mean_exit": "layers",
    "layer_tokens": "layers x tokens",
    "flops_per_token": "FLOPs",
    "flops_saved": "share of FLOPs",
    "tokens_per_round": "tokens",
    "acceptance": "accepted / drafted",
    "acceptance_first": "share of rounds",
    "alpha": "accepted / tested",
    "pred_speedup_serial": "times",
    "pred_speedup_calibrated": "times",
    "pred_speedup_iid": "times",
    "kv_bytes": "bytes",
    "meas_speedup": "times (CPU time)",
    "pred_error": "predicted / measured - 1",
    "n": "documents",
}
"""Units of the columns that have one."""
PREDICTED = (
    "method", "label", "config", "prediction_class", "lossless", "agreement", "agreement_low",
    "agreement_high", "kl", "perplexity", "task_accuracy", "first_divergence", "layers_per_token",
    "mean_exit", "layer_tokens", "flops_per_token", "flops_saved", "tokens_per_round", "acceptance",
    "acceptance_first", "alpha", "drafted_least", "drafted_most", "rounds", "rounds_known",
    "pred_speedup_flops", "pred_speedup_serial", "pred_speedup_calibrated", "pred_speedup_iid",
    "kv_bytes", "n", "note",
)  # fmt: skip
MEASURED = (
    "tested", "held", "held_note", "meas_speedup", "pred_error", "meas_acceptance",
    "meas_acceptance_first", "meas_tokens_per_round", "meas_mean_exit", "meas_layer_tokens",
    "meas_first_divergence", "meas_match", "meas_kv_bytes", "n_verified",
)  # fmt: skip
"""Columns that only a live run fills: NaN, or None for ``tested`` and ``held``, before."""


def predicted_row(method: Method, prediction: Prediction, evidence: Evidence) -> dict[str, Any]:
    """All columns of a method, measured ones empty."""
    table = evidence.table
    row: dict[str, Any] = dict.fromkeys(PREDICTED, NAN)
    row |= {
        "method": method.name,
        "label": method.label,
        "config": method.config(),
        "prediction_class": method.prediction_class if evidence.exact else "proxy",
        "lossless": method.lossless,
        "n": len(prediction.documents),
        "note": prediction.note,
    }
    row |= quality_columns(prediction.quality, table.doc[table.new], method.lossless)
    row |= _trace_columns(method, prediction, evidence)
    row |= _cost_columns(prediction, evidence)
    return (
        row
        | {name: None if name in ("tested", "held") else NAN for name in MEASURED}
        | {"held_note": ""}
    )


def quality_columns(
    quality: dict[str, np.ndarray] | None, docs: np.ndarray, lossless: bool
) -> dict[str, float]:
    """Agreement with its interval over documents, KL and perplexity."""
    if quality is None:
        return {}
    agreement = bootstrap_mean(quality["agreement"], docs)
    low, high = (1.0, 1.0) if lossless else (agreement.low, agreement.high)
    return {
        "agreement": agreement.mean,
        "agreement_low": low,
        "agreement_high": high,
        "kl": float(mean_there(quality["kl"])),
        "perplexity": float(np.exp(-mean_there(quality["log_target"]))),
    }


def _trace_columns(method: Method, prediction: Prediction, evidence: Evidence) -> dict[str, float]:
    lengths = [d.n_new for d in evidence.table.documents()]
    row = {"first_divergence": float(np.mean(lengths))} if method.lossless else {}
    traces = [d.trace for d in prediction.documents]
    drafts = [t for t in traces if isinstance(t, Trace)]
    if drafts:
        found = rates(drafts)
        row |= {
            "tokens_per_round": found.tokens_per_round,
            "acceptance": found.acceptance,
            "acceptance_first": found.first,
            "alpha": found.alpha,
            "drafted_least": float(sum(t.drafted for t in drafts)),
            "drafted_most": float(sum(t.drafted_most for t in drafts)),
            "rounds": float(sum(len(t.rounds) for t in drafts)),
            "rounds_known": float(sum(t.known for t in drafts)),
        }
        config = method.config()
        if "draft" in config:
            row["pred_speedup_iid"] = iid_speedup(
                found.alpha, config["draft"], config["exit_layer"], evidence.n_layers
            )
    exits = [t for t in traces if isinstance(t, ExitTrace)]
    if exits:
        row["mean_exit"] = float(np.mean([e for t in exits for e in t.exits]))
        row["first_divergence"] = float(np.mean([divergence(t, d) for t, d in zip(
            exits, evidence.table.documents(), strict=True)]))  # fmt: skip
    return row


def divergence(trace: ExitTrace, document: Any) -> int:
    """New tokens before the first that differs from the full model's; all of them where none."""
    return shared(trace.tokens, document.text)


def shared(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def iid_speedup(alpha: float, draft: int, exit_layer: int, n_layers: int) -> float:
    """Leviathan's gain at alpha with c = E / L: tokens of a round over its cost in target runs."""
    return expected_tokens(alpha, draft) / (draft * exit_layer / n_layers + 1)


def _cost_columns(prediction: Prediction, evidence: Evidence) -> dict[str, float]:
    works = [(d.least, d.most or d.least) for d in prediction.documents]
    if any(least is None for least, _ in works):
        return {}
    pairs = [(least, most) for least, most in works if least is not None and most is not None]
    layers, costs = evidence.n_layers, evidence.costs
    sizes = [(d.n_prompt, d.n_new) for d in evidence.table.documents()]
    plain = [work_plain(layers, p, n) for p, n in sizes]
    new, run = sum(n for _, n in sizes), sum(p + n - 1 for p, n in sizes)
    flops = _middle(pairs, costs.of_work)
    halves = _middle(pairs, lambda w: float(sum(h.sum() for h in w.halves(layers))) / 2)
    base = sum(costs.of_work(w) for w in plain)
    serial = sum(serial_calls(w, layers) for w in plain)
    row = {
        "layer_tokens": halves,
        "layers_per_token": halves / run,
        "flops_per_token": flops / new,
        "flops_saved": 1 - flops / base,
        "pred_speedup_flops": base / flops,
        "pred_speedup_serial": serial / _middle(pairs, lambda w: float(serial_calls(w, layers))),
        "kv_bytes": costs.kv_bytes * _middle(pairs, lambda w: _kept(w, layers)),
    }
    if evidence.times is not None:
        seconds = evidence.times.seconds
        row["pred_speedup_calibrated"] = sum(map(seconds, plain)) / _middle(pairs, seconds)
    return row


def _kept(work: Work, n_layers: int) -> float:
    """Keys and values held at the end, tokens times layers."""
    ends = np.zeros(n_layers, dtype=np.int64)
    for first, last, tokens, at in work.spans:
        ends[first:last] = np.maximum(ends[first:last], at + tokens)
    if work.filled:  # what did not run was stored all the same
        ends[:] = ends.max()
    for half, layer in work.omit:
        ends[layer] *= half != "attn"
    return float(ends.sum())


def _middle(pairs: Sequence[tuple[Work, Work]], cost: Any) -> float:
    """Cost of all documents, half way between the least and the most."""
    return float(sum((cost(least) + (cost(most) if most is not least else cost(least))) / 2
                     for least, most in pairs))  # fmt: skip
