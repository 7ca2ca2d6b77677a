"""``lensbench lens future`` and ``context``: later tokens, and the prompt's own bigrams."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.results import result_answer

OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]
StoreModelOption = Annotated[
    str | None, typer.Option("--model", help="Default: the model the store names.")
]


def future(
    store: Annotated[Path, typer.Option("--store", help="Activations with every resid_post.")],
    model: StoreModelOption = None,
    ahead: Annotated[
        str, typer.Option("--ahead", help="Distances, such as 0,1,2; 0 is the next token.")
    ] = "0,1,2,3",
    layers: Annotated[str, typer.Option("--layers", help="Such as 0,3-5; default: all.")] = "",
    target: Annotated[
        str, typer.Option("--target", help="state (the final one) or vocabulary (the logits).")
    ] = "state",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Tokens to score on.")] = 2000,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Read later tokens off the stream by linear maps (future lens), beside bigrams."""
    from lensbench.app.workflows.special_probes import future as read

    facts = read(store, model=model, ahead=ahead, layers=layers, target=target,
                 max_tokens=max_tokens, seed=seed, out=out)  # fmt: skip
    return result_answer(facts, ("metric", "states", "layer", "ahead", "value", "low", "high"))


def context(
    store: Annotated[Path, typer.Option("--store", help="Its text is where bigrams are counted.")],
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts", help="A prompt per line whose last token stood in it before, or .jsonl."
        ),
    ],
    model: StoreModelOption = None,
    at_least: Annotated[
        int, typer.Option("--at-least", min=1, help="A token has a bigram from so many on.")
    ] = 5,
    seed: SeedOption = 0,
    out: OutOption = None,
) -> Answer:
    """Show from which layer on the prompt's own context beats the bigram of the training text."""
    from lensbench.app.workflows.special_probes import context as read

    facts = read(store, prompts, model=model, at_least=at_least, seed=seed, out=out)
    return result_answer(facts, ("measure", "kind", "layer", "value", "low", "high", "n"))
