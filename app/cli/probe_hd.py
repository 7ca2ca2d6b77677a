"""``lensbench probe capacity | concepts | decode``: hypervectors, and what is read off them."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, OutOption, RevisionOption, SeedOption
from lensbench.app.cli.results import result_answer


def capacity(
    space: Annotated[str, typer.Option("--space", help="MAP, BSC, HRR or FHRR.")] = "MAP",
    dim: Annotated[int, typer.Option("--dim", min=2, help="Numbers of a hypervector.")] = 1024,
    names: Annotated[int, typer.Option("--names", min=2, help="Names in the codebook.")] = 500,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Bound pairs in a bundle, such as 1,4,16.")
    ] = "1,2,4,8,16,32,64",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Bundles of each size.")] = 200,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Measure how many pairs a bundle gives back, beside theory and keys that are in no pair."""
    from lensbench.app.workflows.hyper_decode import capacity as measured

    facts = measured(space, dim=dim, n_items=names, sizes=sizes, trials=trials, seed=seed, out=out)
    return result_answer(facts)


def concepts(
    model: ModelOption,
    file: Annotated[
        Path, typer.Option("--text", help="An analogy a line: France : Paris = Peru : Lima.")
    ],
    dim: Annotated[int, typer.Option("--dim", min=2, help="Numbers of a hypervector.")] = 2048,
    baselines: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="One of the baselines (may be repeated); default: all."),
    ] = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    revision: RevisionOption = None,
) -> Answer:
    """Fit a hyperdimensional probe to your own analogies; the questions that test it are new.

    With --out the encoder and its codebook are kept, for `lensbench probe decode`.
    """
    from lensbench.app.workflows.hyper_decode import BASELINES
    from lensbench.app.workflows.hyper_decode import concepts as fitted

    facts = fitted(model, file, dim=dim, baselines=baselines or BASELINES, revision=revision,
                   seed=seed, out=out)  # fmt: skip
    return result_answer(facts, ("source", "score", "value", "low", "high", "cosine", "n"))


def decode(
    folder: Annotated[
        Path, typer.Option("--encoder", help="What `probe concepts` or `probe hd` kept by --out.")
    ],
    model: ModelOption,
    prompt: Annotated[str, typer.Option("--prompt", help="What stands before the word.")],
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="Concept that is unbound first (may be repeated)."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Concepts to print.")] = 10,
    seed: SeedOption = 0,
    revision: RevisionOption = None,
) -> Answer:
    """Read the concepts of one prompt off its hypervector, or what is bound to --query."""
    from lensbench.app.workflows.hyper_decode import decode as read

    facts = read(folder, model, prompt, query=tuple(query or ()), top=top, revision=revision,
                 seed=seed)  # fmt: skip
    return result_answer(facts)
