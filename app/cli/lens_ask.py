"""``lensbench lens ask``: one token's state in every layer of a prompt, beside other vectors."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.results import result_answer

SHOWN = ("layer", "into", "top", "top_prob", "prob", "prob_mean", "prob_random", "prob_without",
         "prob_lens", "kl")  # fmt: skip


def ask(
    target: Annotated[str, typer.Option("--target", help="The prompt that gets the state.")],
    model: Annotated[
        str, typer.Option("--model", help="Bundled name, folder or hub id; default: the store's.")
    ] = "",
    prompt: Annotated[
        str, typer.Option("--prompt", help="The text whose token is asked; or --store and --row.")
    ] = "",
    store: Annotated[
        Path | None, typer.Option("--store", help="Take the text from a store: that of --row.")
    ] = None,
    row: Annotated[int, typer.Option("--row", min=0, help="--store: a row of the text.")] = 0,
    at: Annotated[
        int, typer.Option("--at", help="Token of the text (from 0; negative: from the end).")
    ] = -1,
    placeholder: Annotated[
        str,
        typer.Option(
            "--placeholder", help="Token of --target that gets it; default: the last one."
        ),
    ] = "",
    token: Annotated[
        str, typer.Option("--token", help="Token to score; default: what the model says next.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")] = None,
) -> Answer:
    """Put one token's state into every layer of a prompt, beside mean and random states."""
    from lensbench.app.workflows.lens_ask import facts as read

    settings = {"model": model, "prompt": prompt, "store": store and str(store), "row": row,
                "at": at, "target": target, "placeholder": placeholder, "token": token,
                "out": out}  # fmt: skip
    facts = read(settings)
    head = f"state of token {facts['position']}, {facts['token']!r}; scored: {facts['scored']!r}\n"
    return result_answer(facts, SHOWN, head)
