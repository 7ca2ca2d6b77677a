"""``lensbench encode``: keep the latents of every stored token on disk."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, Progress, fields, for_people


def encode(
    dictionary: Annotated[
        str,
        typer.Argument(
            metavar="RUN/NAME",
            help="A dictionary of a run, one in a format of saes.load, or sae_lens:release/id.",
        ),
    ],
    store: Annotated[Path, typer.Option("--store", help="Store of the dictionary's activations.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the latents; default: DIR.latents/NAME."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or float16.")] = "float32",
) -> Answer:
    """Write the latents that fire on every token of --store; goes on where it was interrupted."""
    from lensbench.app.workflows.dictionaries import encode_dictionary

    progress = Progress("encode")
    facts = encode_dictionary(dictionary, store, out=out, dtype=dtype, progress=progress)
    progress.end()
    return Answer(facts, fields(for_people(facts)))
