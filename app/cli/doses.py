"""``lensbench doses``: every strength of one direction on one prompt."""

from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.groups import ModelOption, OutOption
from lensbench.app.cli.results import result_answer


def doses(
    task: Annotated[
        str,
        typer.Argument(
            metavar="[TASK]", help="A task whose pairs make the direction.", show_default=False
        ),
    ] = "",
    prompt: Annotated[str, typer.Option("--prompt", help="What is steered, and goes on.")] = "",
    model: ModelOption = "atlas-dense",
    plus: Annotated[
        list[str] | None,
        typer.Option("--plus", help="The direction: states of these prompts ... Repeatable."),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option("--minus", help="... less states of these. Repeatable.")
    ] = None,
    dictionary: Annotated[
        str, typer.Option("--dictionary", help="RUN/NAME: the direction is one of its latents.")
    ] = "",
    latent: Annotated[int, typer.Option("--latent", min=0, help="Of --dictionary.")] = 0,
    vector: Annotated[
        str, typer.Option("--vector", help="The direction: a .npy, .json or .safetensors file.")
    ] = "",
    layer: Annotated[int, typer.Option("--layer", min=0, help="Added after this block.")] = 1,
    towards: Annotated[
        str, typer.Option("--towards", help="Of TASK: answers of one class, such as are,were.")
    ] = "",
    source: Annotated[
        str, typer.Option("--from", help="Of TASK: token whose states make the direction.")
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Of TASK: mean_difference, pca_center, pca_uncentred or pca_diff.",
        ),
    ] = "mean_difference",
    n: Annotated[int, typer.Option("--n", min=1, help="Of TASK: prompt pairs.")] = 32,
    at: Annotated[
        str, typer.Option("--at", help="Tokens that are steered: after (the prompt) or all.")
    ] = "after",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="Tokens to add.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random directions.")] = 0,
    out: OutOption = None,
) -> Answer:
    """Steer one prompt along one direction at every strength, beside random directions as long."""
    from lensbench.app.workflows.dose_jobs import facts

    settings = {
        "task": task, "prompt": prompt, "model": model, "plus": plus, "minus": minus,
        "dictionary": dictionary, "latent": latent, "vector": vector, "layer": layer,
        "towards": towards, "from": source, "method": method, "n": n, "at": at,
        "new_tokens": new_tokens, "seed": seed,
    }  # fmt: skip
    found = facts(settings, out)
    head = (f"Strength 1 is a step of length {found['unit']:.4g} at {found['site']}: the median "
            "length of the state at the steered tokens of the prompt.")  # fmt: skip
    return result_answer(found, ("direction", "strength", "kl", "changed", "loss"), head)
