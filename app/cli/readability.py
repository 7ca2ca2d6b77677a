"""``lensbench readability``: does a dictionary still read a model of which blocks are left out?"""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, RevisionOption
from lensbench.app.cli.results import result_answer


def readability(
    prompts: Annotated[str, typer.Option("--prompts", help="A text per line, .jsonl, or atlas:N.")],
    model: ModelOption = "atlas-dense",
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Blocks not run, such as 2,3. Repeatable.")
    ] = None,
    exit: Annotated[
        list[int] | None, typer.Option("--exit", help="Leave after so many blocks. Repeatable.")
    ] = None,
    dictionary: Annotated[
        list[str] | None,
        typer.Option("--dictionary", help="RUN/NAME, or any dictionary of saes.load. Repeatable."),
    ] = None,
    random: Annotated[
        int, typer.Option("--random", min=0, help="Skips of as many other blocks, the control.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the controls.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
    revision: RevisionOption = None,
) -> Answer:
    """Compare what dictionaries and the output read with blocks left out, beside random skips."""
    from lensbench.app.workflows.changing import read_accelerated

    facts = read_accelerated(
        model, prompts, skips=tuple(skip or ()), exits=tuple(exit or ()),
        dictionaries=tuple(dictionary or ()), random=random, revision=revision, seed=seed, out=out,
    )  # fmt: skip
    shown = ("acceleration", "readout", "site", "measure", "value", "low", "high", "random",
             "shuffled")  # fmt: skip
    return result_answer(facts, shown)
