"""``lensbench accelerate``: what skipping and exiting cost, predicted, and measured with --live."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.errors import ConfigError, UnknownNameError

MEASURE = "softmax_diff"
"""Confidence of the exit that --agreement chooses a threshold for."""
_COLUMNS = {
    "label": "method", "agreement": "agreement", "layers_per_token": "layers/token",
    "flops_saved": "flops saved", "pred_speedup_serial": "serial",
    "pred_speedup_calibrated": "calibrated",
}  # fmt: skip
_LIVE = {"meas_speedup": "measured", "tested": "lossless", "held": "held"}
_MORE = {"prediction_class": "class", "kl": "kl", "acceptance": "acceptance",
         "meas_acceptance": "acceptance live", "perplexity": "perplexity",
         "first_divergence": "first divergence", "mean_exit": "mean exit",
         "tokens_per_round": "tokens/round", "kv_bytes": "kv bytes", "n": "texts"}  # fmt: skip
_SPEED = ("meas_speedup", "pred_speedup_calibrated", "pred_speedup_serial")
"""What rows are sorted by: the first of these that a row has."""


def accelerate(
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    store: Annotated[
        str, typer.Option("--store", help="A store of the model's own greedy continuations.")
    ] = "",
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            help='A text file with a prompt per line, .jsonl with a "prompt" field, atlas:N, or a '
            "store (the beginnings of its first 8 texts, or --texts); the model continues them "
            "greedily, and that is captured and studied.",
        ),
    ] = "",
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Names such as fixed_exit,early_exit,adaskip (each with a few settings), or with "
            "settings: 'fixed_exit(exit_layer=2, draft=2|4)' is two. Default: all of them.",
        ),
    ] = "",
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Run every row, time it, and hold its prediction to what its class says."
        ),
    ] = False,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", help="Tokens added to each of --prompts.")
    ] = 48,
    keep: Annotated[
        str, typer.Option("--keep", help="Folder to keep the store of --prompts in.")
    ] = "",
    text_only: Annotated[
        bool,
        typer.Option(
            "--text-only", help="Write the text of --prompts into --keep, and stop there."
        ),
    ] = False,
    texts: Annotated[
        int | None, typer.Option("--texts", help="Use the first so many texts; default: all.")
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", help="Runs of each by --live; speed-ups are medians.")
    ] = 1,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Time the layers on this machine to predict times (--live does)."
        ),
    ] = False,
    proxy: Annotated[
        bool,
        typer.Option("--proxy", help="Accept a store of other text; every row is then a guess."),
    ] = False,
    agreement: Annotated[
        float | None,
        typer.Option(
            "--agreement",
            min=0.5,
            max=0.999,
            help="Also choose the exit threshold that keeps this share of the full model's tokens, "
            "such as 0.95, with its bound (which takes 29 texts or more for 0.9, 59 for 0.95); of "
            "--store, or of the store that --keep keeps.",
        ),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            help="Columns to print beside the method, such as agreement,kl,serial; or all.",
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
) -> Answer:
    """Predict every way to skip layers from one store; with --live, measure what was predicted."""
    from lensbench.app.workflows.accelerating import AccelerateAsk, facts, write_own
    from lensbench.app.workflows.accelerating import accelerate as run
    from lensbench.app.workflows.answers import saved_in

    ask = AccelerateAsk(
        model, revision, store, prompts, methods, new_tokens, keep, live, calibrate, texts,
        repeats, proxy,
    )  # fmt: skip
    if text_only:
        told = write_own(ask)
        return Answer(told, f"{told['texts']} texts, {told['tokens']:,} tokens in {told['store']}")
    if agreement is not None and not (store or keep):
        raise ConfigError(
            "--agreement reads a store: give --store DIR, or --keep DIR with --prompts"
        )
    shown = _chosen(columns, live)
    opened, result = run(ask)
    found = facts(opened, result, ask)
    if agreement is not None:
        found["threshold"] = _threshold(store or keep, agreement)
    found |= saved_in(result, out)
    return Answer(found, _told(found, keep, shown, agreement))


def _threshold(store: str, level: float) -> dict[str, Any]:
    from lensbench.app.workflows.exit_threshold import threshold_for, told

    chosen = threshold_for(str(Path(store).resolve()), MEASURE, level)
    return {
        "measure": MEASURE, "level": level, "with_bound": chosen.bound.threshold,
        "without": chosen.plain, "agreement": chosen.agreement.mean,
        "agreement_low": chosen.agreement.low, "agreement_high": chosen.agreement.high,
        "texts": chosen.bound.n_texts, "texts_at_least": chosen.n_needed,
        "texts_needed": [{"threshold": t, "texts": n} for t, n in chosen.needed],
        "told": told(chosen),
    }  # fmt: skip


def _chosen(columns: str, live: bool) -> dict[str, str]:
    """Columns by what was asked for; the usual ones for nothing.

    Raises:
        UnknownNameError: no such column, with the nearest that there is.
    """
    usual = _COLUMNS | (_LIVE if live else {})
    every = _COLUMNS | _LIVE | _MORE
    wanted = [part.strip() for part in columns.split(",") if part.strip()]
    if wanted in ([], ["all"]):
        return every if wanted else usual
    by_name = {name: key for key, name in every.items()}
    for name in wanted:
        if name not in by_name:
            raise UnknownNameError("column", name, known=(*by_name, "all"))
    return {"label": "method"} | {by_name[name]: name for name in wanted}


def _order(row: dict[str, Any], level: float | None) -> tuple[bool, float]:
    """Rows that agree enough first; among them the fastest, and those without a speed last."""
    agrees = row["agreement"]
    less = level is not None and not (agrees is not None and agrees >= level)
    speeds = [row.get(key) for key in _SPEED]
    speed = next((s for s in speeds if s is not None and s == s), float("-inf"))
    return less, -speed


def _told(found: dict[str, Any], keep: str, columns: dict[str, str], level: float | None) -> str:
    fastest = sorted(found["rows"], key=lambda row: _order(row, level))
    rows = [{name: row.get(key) for key, name in columns.items()} for row in fastest]
    timed = [r["calibrated"] for r in rows if "calibrated" in r]
    if timed and not any(t is not None and t == t for t in timed):
        rows = [{k: v for k, v in row.items() if k != "calibrated"} for row in rows]
    enough = sum(not _order(row, level)[0] for row in found["rows"])
    first = "" if level is None else (
        f"first those that agree on at least {level:g} ({enough}), then the others; of each, "
    )  # fmt: skip
    problems = [f"  {r['label']}: {r['held_note']}" for r in found["rows"] if r["held_note"]]
    guess = "" if found["exact"] else "; other text than the model's own, so every row is a guess"
    return "\n".join([
        f"{len(rows)} rows on {found['texts']} texts, {found['new_tokens']} new tokens of "
        f"{found['model']}{guess}",
        "",
        table(rows),
        "",
        f"{first}fastest first. serial, calibrated: predicted speed-up over plain decoding, in "
        "layers that wait for one another, and in timed layers (--calibrate); agreement: with the "
        "full model on its own text. More columns: --columns all.",
        *(["kl: KL(full ‖ accelerated) [nats]"] if "kl" in columns else []),
        *(["not kept:", *problems] if problems else []),
        *[f"left out: {reason}" for reason in found["left_out"]],
        f"Control: {found['control']}",
        *([f"Early exit: {found['threshold']['told']}"] if "threshold" in found else []),
        *([f"store kept in {keep}"] if keep else []),
        *([f"saved in {found['saved']}"] if "saved" in found else []),
    ])  # fmt: skip
