"""``lensbench edit``: facts changed by rank-1 edits of weights, and what else changes."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import (
    LayersOption,
    PairsOption,
    SeedOption,
    SeveralOption,
    TaskArgument,
)


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Edits of facts in the weights, and what follows from them.")
    app.callback()(_keep_group)
    app.command("fact")(fact)
    return app


def _keep_group() -> None:
    """Edits of facts in the weights, and what follows from them."""


def fact(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    layers: LayersOption = "",
    position: Annotated[
        str,
        typer.Option(
            "--position",
            help="Token whose key is edited: role or number; default: subject, or end where the "
            "task has none.",
        ),
    ] = "",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates of the new value.")] = 25,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: Annotated[int, typer.Option("--n", min=2, help="Facts: prompt pairs.")] = 8,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Write each fact's foil into one layer (ROME), beside random keys, and compare with patching.

    An edit that works at a layer is no evidence that the fact lies there.
    """
    from lensbench.app.workflows.changing import edit_facts
    from lensbench.app.workflows.circuits import CircuitAsk

    ask = CircuitAsk(task, model, revision, pairs=pairs, several=several, n=n, seed=seed)
    facts = edit_facts(ask, layers=layers, position=position, steps=steps, out=out)
    return result_answer(facts, ("edit", "layer", "measure", "value", "low", "high", "n"))
