"""``lensbench eval isolation``: does a dictionary part one attribute from the others?"""

from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, OutOption, RevisionOption, SeedOption
from lensbench.app.cli.results import result_answer


def isolation(
    name: Annotated[
        str,
        typer.Argument(metavar="RUN/NAME", help="A dictionary, in any format of saes.load."),
    ],
    model: ModelOption = "atlas-dense",
    entities: Annotated[str, typer.Option("--entities", help="countries or people.")] = "countries",
    at: Annotated[
        str, typer.Option("--at", help="Exchange at the prompt's end, or at the entity.")
    ] = "end",
    ks: Annotated[str, typer.Option("--k", help="Numbers of latents, such as 1,4,16.")] = "1,4,16",
    n_pairs: Annotated[
        int, typer.Option("--n-pairs", min=1, help="Pairs of prompts per attribute and measure.")
    ] = 64,
    twin: Annotated[
        str, typer.Option("--twin", help="A dictionary of a re-initialised model: one control.")
    ] = "",
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Exchange an attribute's latents: does it change, and nothing else? Beside many controls."""
    from lensbench.app.workflows.patching import numbers
    from lensbench.app.workflows.toys import isolation as exchanged

    facts = exchanged(
        name, model, entities=entities, at=at, ks=numbers(ks, "k") or [1], n_pairs=n_pairs,
        twin=twin, revision=revision, seed=seed, out=out,
    )  # fmt: skip
    return result_answer(facts, ("method", "attribute", "k", "cause", "isolation", "disentangle",
                                 "low", "high", "n"))  # fmt: skip
