"""``lensbench eval``: measure trained dictionaries against a store and the live model."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, table
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Evaluate what was trained.")
    app.callback()(_keep_group)
    app.command("sae")(sae)
    return app


def _keep_group() -> None:
    """Evaluate what was trained."""


def sae(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `train sae`.")],
    store: Annotated[Path, typer.Option("--store", help="Store to evaluate on.")],
    model: ModelOption,
    revision: RevisionOption = None,
    ce_sequences: Annotated[
        int,
        typer.Option(
            "--ce-sequences",
            help="Sequences (rows of the capture) for the live cross-entropy, from the start of "
            "the store; 0 leaves it out.",
        ),
    ] = 256,
    twin: Annotated[
        bool,
        typer.Option(
            "--twin",
            help="One more control: repeat the first dictionary on a twin of the model with random "
            "weights (captures the text again).",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of splits and bootstraps.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the evaluation that is there.")
    ] = False,
) -> Answer:
    """Reconstruction, sparsity, CE recovered and labels, with controls; saved in RUN/evaluation."""
    from lensbench.app.workflows.evaluation import evaluate_run

    progress = Progress("evaluate")
    facts = evaluate_run(
        run, store, model, revision=revision, ce_sequences=ce_sequences, twin=twin, seed=seed,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip
    progress.end()
    lines = [
        table(facts["dictionaries"]),
        f"controls: {facts['controls']}",
        facts["scored"],
        f"rows: {facts['disclosure']}",
    ]
    return Answer(facts, "\n".join([*lines, f"saved in {facts['saved']}"]))
