"""``lensbench accelerate``: what skipping and exiting cost, predicted, and measured with --live."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, table
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.errors import ConfigError

MEASURE = "softmax_diff"
"""Confidence of the exit that --agreement chooses a threshold for."""
_COLUMNS = {
    "label": "method", "prediction_class": "class", "agreement": "agreement", "kl": "kl",
    "layers_per_token": "layers/token", "flops_saved": "flops saved", "acceptance": "acceptance",
    "pred_speedup_serial": "serial", "pred_speedup_calibrated": "calibrated",
}  # fmt: skip
_LIVE = {"meas_speedup": "measured", "meas_acceptance": "acceptance live", "tested": "lossless",
         "held": "held"}  # fmt: skip


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
            help='A text file with a prompt per line, .jsonl with a "prompt" field, or atlas:N; '
            "the model continues them greedily, and that is captured and studied.",
        ),
    ] = "",
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Names such as fixed_exit,early_exit,adaskip (each with a few settings), or with "
            "settings: 'fixed_exit(exit_layer=2, draft=4)'. Default: all of them.",
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
            "such as 0.95, with its bound; of --store, or of the store that --keep keeps.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
) -> Answer:
    """Predict every way to skip layers from one store; with --live, measure what was predicted."""
    from lensbench.app.workflows.accelerating import AccelerateAsk, facts
    from lensbench.app.workflows.accelerating import accelerate as run
    from lensbench.app.workflows.answers import saved_in

    ask = AccelerateAsk(
        model, revision, store, prompts, methods, new_tokens, keep, live, calibrate, texts,
        repeats, proxy,
    )  # fmt: skip
    if agreement is not None and not (store or keep):
        raise ConfigError(
            "--agreement reads a store: give --store DIR, or --keep DIR with --prompts"
        )
    opened, result = run(ask)
    found = facts(opened, result, ask)
    if agreement is not None:
        found["threshold"] = _threshold(store or keep, agreement)
    found |= saved_in(result, out)
    return Answer(found, _told(found, keep))


def _threshold(store: str, level: float) -> dict[str, Any]:
    from lensbench.app.workflows.exit_threshold import threshold_for, told

    chosen = threshold_for(str(Path(store).resolve()), MEASURE, level)
    return {
        "measure": MEASURE, "level": level, "with_bound": chosen.bound.threshold,
        "without": chosen.plain, "agreement": chosen.agreement.mean,
        "agreement_low": chosen.agreement.low, "agreement_high": chosen.agreement.high,
        "texts": chosen.bound.n_texts, "told": told(chosen),
    }  # fmt: skip


def _told(found: dict[str, Any], keep: str) -> str:
    columns = _COLUMNS | (_LIVE if found["live"] else {})
    rows = [{name: row.get(key) for key, name in columns.items()} for row in found["rows"]]
    problems = [f"  {r['label']}: {r['held_note']}" for r in found["rows"] if r["held_note"]]
    guess = "" if found["exact"] else "; other text than the model's own, so every row is a guess"
    return "\n".join([
        f"{len(rows)} rows on {found['texts']} texts, {found['new_tokens']} new tokens of "
        f"{found['model']}{guess}",
        "",
        table(rows, [*columns.values()]),
        "",
        "serial, calibrated: predicted speed-up over plain decoding, in layers that wait for one "
        "another, and in timed layers; agreement and kl: against the full model on its own text.",
        *(["not kept:", *problems] if problems else []),
        *[f"left out: {reason}" for reason in found["left_out"]],
        f"Control: {found['control']}",
        *([f"Early exit: {found['threshold']['told']}"] if "threshold" in found else []),
        *([f"store kept in {keep}"] if keep else []),
        *([f"saved in {found['saved']}"] if "saved" in found else []),
    ])  # fmt: skip
