"""``lensbench train``: sweeps of dictionaries."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, fields, table
from lensbench.app.cli.groups import new_group
from lensbench.errors import StoppedError


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Train dictionaries on captured activations.")
    app.callback()(_keep_group)
    app.command("sae")(sae)
    return app


def _keep_group() -> None:
    """Train dictionaries on captured activations."""


def sae(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            "-c",
            help="Sweep file (YAML): source, train, sweep. Repeatable; later ones win.",
        ),
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Store to train on.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Without a store: capture from this model.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="With --model: the text.")] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--sites",
            help="Sites to train on, several in a row (needed where the source has several).",
        ),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="topk, batchtopk, ...; lists: topk,relu.")
    ] = None,
    d_sae: Annotated[str | None, typer.Option("--d-sae", help="Latents; lists: 512,1024.")] = None,
    k: Annotated[
        str | None,
        typer.Option(
            "--k", help="Latents per token (steered to, where a penalty sets them); lists: 16,32."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens", help="Training tokens per dictionary, rounded down to whole batches."
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key: train.batch=2048, sweep.lr=1e-3,3e-4. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default: runs/sae-HASH.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with this run folder.")
    ] = None,
    array: Annotated[
        str | None, typer.Option("--array", help="i/n: train the i-th of n parts (from 1).")
    ] = None,
    sinks: Annotated[
        list[str] | None,
        typer.Option(
            "--sinks", help="Metrics beside the run folder's own: wandb, tensorboard; lists too."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameters, memory, disk and time; train none.")
    ] = False,
) -> Answer | int | None:
    """Train a sweep; comma lists and grids expand, RUN holds one sub-folder per dictionary.

    Under torchrun the processes share the work (train.parallel); the first one speaks for all.
    """
    from lensbench.app.workflows.training import TrainRequest, train_sweep
    from lensbench.saes.distributed.environment import place

    first = place().rank == 0
    if dry_run and not first:
        return None
    request = TrainRequest(
        config=tuple(config or ()), store=store, model=model, text=text, sites=_split(sites),
        architecture=architecture, d_sae=d_sae, k=k, tokens=tokens, assign=tuple(assign or ()),
        out=out, resume=resume, array=array, dry_run=dry_run, sinks=_split(sinks),
    )  # fmt: skip
    try:
        facts = train_sweep(request, say=Progress().say if first else None)
    except StoppedError as stop:
        if first:
            raise
        return stop.exit_code  # the first process says it for all
    if not first:
        return None
    if dry_run:
        return Answer(facts, "\n".join(facts["lines"]))
    told, then = facts.get("message", ""), facts.get("next", {})
    head = {k: v for k, v in facts.items() if isinstance(v, str) and k != "message"}
    shown = [told, table(facts["dictionaries"]), fields(head), fields(then) if then else ""]
    return Answer(facts, "\n\n".join(part for part in shown if part))


def _split(values: list[str] | None) -> tuple[str, ...]:
    return tuple(part for value in values or () for part in value.split(",") if part)
