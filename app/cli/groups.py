"""How a group of commands is made, and the options that several commands share."""

from typing import Annotated

import typer

ModelOption = Annotated[
    str, typer.Option("--model", help="Bundled name, local folder in hub format, or hub id.")
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Hub revision, or a checkpoint such as step512.")
]
TextOption = Annotated[
    str,
    typer.Option(
        "--text",
        help="Text file (stories split at <|endoftext|>, else at blank lines), .jsonl with a "
        '"text" field, or atlas:N for N generated documents (atlas:N:heldout for held-out ones), '
        "othello:N for N games.",
    ),
]


def new_group(text: str) -> typer.Typer:
    """An empty group; without a command it shows its help."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
