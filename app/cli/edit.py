"""``lensbench edit``: facts changed by rank-1 edits of weights, and what else changes."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption, new_group
from lensbench.app.cli.results import result_answer
from lensbench.app.cli.task_options import (
    CountOption,
    LayersOption,
    PairsOption,
    SeedOption,
    SeveralOption,
    TaskArgument,
)


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Edits of the weights, and what follows from them.")
    app.command("fact")(fact)
    app.command("directions")(directions)
    return app


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


def directions(
    task: TaskArgument = "recall",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            "--direction",
            help="Folder of a direction, as `lensbench steer --out OUT` saves it in OUT/direction. "
            "Repeatable: their span is taken out.",
        ),
    ] = None,
    dictionary: Annotated[
        str, typer.Option("--dictionary", help="RUN/NAME whose latents' directions are meant.")
    ] = "",
    latents: Annotated[
        str, typer.Option("--latents", help="Latents of --dictionary, such as 3,17.")
    ] = "",
    random: Annotated[
        int, typer.Option("--random", min=1, help="Random directions taken out alike, the control.")
    ] = 3,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: CountOption = 64,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Prompts in one pass.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="New folder for the changed model, in hub format."),
    ] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Take directions out of all weights that write them (directional ablation), and test a task.

    The changed model is opened by --model OUT afterwards.
    """
    from lensbench.app.workflows.circuits import CircuitAsk
    from lensbench.app.workflows.clamping import without_directions

    ask = CircuitAsk(task, model, revision, pairs=pairs, several=several, n=n,
                     batch_size=batch_size, seed=seed)  # fmt: skip
    facts = without_directions(ask, direction or (), dictionary=dictionary, latents=latents,
                               random=random, out=out)  # fmt: skip
    return result_answer(facts, head=", ".join(facts["directions"]))
