"""Options that the commands of ``lensbench savings`` share."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str,
    typer.Option("--store", help="Captured states, best of the model's own continuations."),
]
PromptsOption = Annotated[
    str,
    typer.Option(
        "--prompts",
        help='A text file with a prompt per line, .jsonl with a "prompt" field, or atlas:N; the '
        "model continues them greedily, and that is captured.",
    ),
]
TextsOption = Annotated[
    str,
    typer.Option(
        "--prompts", help='A text file with a text per line, .jsonl with "prompt", or atlas:N.'
    ),
]
NewOption = Annotated[
    int, typer.Option("--new-tokens", min=1, help="Tokens added to each of --prompts.")
]
KeepOption = Annotated[
    str, typer.Option("--keep", help="Folder to keep the store of --prompts in.")
]
ExitOption = Annotated[
    int, typer.Option("--exit", min=1, help="Layers of the draft, 1 to one less than there are.")
]
DocumentsOption = Annotated[
    int, typer.Option("--max-documents", min=2, help="Documents that are read.")
]
TestOption = Annotated[
    float, typer.Option("--test", min=0.05, max=0.95, help="Share of texts held out.")
]
MostOption = Annotated[int, typer.Option("--most", min=1, help="Longest draft.")]
TopOption = Annotated[int, typer.Option("--top", min=1, help="Rows to print.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every draw.")]
MODEL = "atlas-early"
"""The bundled model that was trained to exit early."""
