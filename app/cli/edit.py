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
    app.command("patch")(patch)
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


def patch(
    layer: Annotated[int, typer.Option("--layer", help="Whose MLP is patched and edited.")],
    task: TaskArgument = "agreement",
    model: ModelOption = "atlas-dense",
    revision: RevisionOption = None,
    position: Annotated[
        str,
        typer.Option(
            "--position",
            help="Token that is patched: role or number; default: subject, or end where the task "
            "has none.",
        ),
    ] = "",
    direction: Annotated[
        str,
        typer.Option("--direction", help="denoise (clean into corrupted) or noise (the reverse)."),
    ] = "denoise",
    line: Annotated[
        str,
        typer.Option(
            "--line",
            help="Safetensors file with one direction of the neurons; default: the mean step from "
            "one run to the other.",
        ),
    ] = "",
    edit: Annotated[
        str,
        typer.Option(
            "--edit",
            help="The reverse: a rank-1 edit (OUT/edit of this command), whose line is sought.",
        ),
    ] = "",
    random: Annotated[
        int, typer.Option("--random", min=0, help="Edits of random lines, the control.")
    ] = 20,
    pairs: PairsOption = "",
    several: SeveralOption = "",
    n: Annotated[int, typer.Option("--n", min=1, help="Prompt pairs.")] = 4,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder to save the result in; the edit in OUT/edit, the line beside it."
        ),
    ] = None,
    seed: SeedOption = 0,
) -> Answer:
    """Turn a patch of a line of neurons into a rank-1 edit of the weights, or an edit into a patch.

    Both do the same on these prompts, so that an edit that works is no more evidence than the
    patch: the verdict says whether the line may be an illusion.
    """
    from lensbench.app.workflows.circuits import CircuitAsk
    from lensbench.app.workflows.edits import LineAsk, patch_and_edit

    ask = CircuitAsk(task, model, revision, pairs=pairs, several=several, n=n, seed=seed)
    facts = patch_and_edit(LineAsk(ask, layer, position, direction, line, edit, random, out))
    told = facts["edit"]
    effect = next(row["effect"] for row in facts["rows"] if row["patched"] == "subspace")
    head = (
        f"the line: {facts['verdict']}; effect {effect:.3g} patched, {told['effect']:.3g} as an "
        f"edit of the weights. {told.get('verdict', '')}"
    )
    return result_answer(facts, head=head.rstrip())
