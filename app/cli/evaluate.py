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
    max_docs: Annotated[
        int, typer.Option("--max-docs", help="Documents for the live cross-entropy.")
    ] = 512,
    twin: Annotated[
        bool,
        typer.Option(
            "--twin",
            help="One more control: repeat the first dictionary on a twin of the model with random "
            "weights (captures the text again).",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of splits and bootstraps.")] = 0,
) -> Answer:
    """Reconstruction, sparsity, CE recovered and labels, with controls; saved in RUN/evaluation."""
    from lensbench.app.workflows.evaluation import evaluate_run

    progress = Progress("evaluate")
    facts = evaluate_run(
        run, store, model, revision=revision, max_docs=max_docs, twin=twin, seed=seed,
        progress=progress,
    )  # fmt: skip
    progress.end()
    lines = [table(facts["dictionaries"]), f"controls: {facts['controls']}"]
    return Answer(facts, "\n".join([*lines, f"saved in {facts['saved']}"]))
