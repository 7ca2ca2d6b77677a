"""How a group of commands is made, and the options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.helping import Command, Group

ModelOption = Annotated[
    str, typer.Option("--model", help="Bundled name, local folder in hub format, or hub id.")
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", help="Hub revision, or a checkpoint such as step512.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder to save the result in.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of every draw.")]
TextOption = Annotated[
    str,
    typer.Option(
        "--text",
        help="Text file (stories split at <|endoftext|>, else at blank lines), .jsonl with a "
        '"text" field, or atlas:N for N generated documents (atlas:N:heldout for held-out ones), '
        "othello:N for N games.",
    ),
]


class Commands(typer.Typer):
    """A group whose commands show their options and examples as ``helping`` says."""

    def command(self, name: str | None = None, **options: Any) -> Callable[..., Any]:
        """Register a command."""
        given: dict[str, Any] = {"cls": Command, **options}
        return super().command(name, **given)


def new_group(text: str, kind: Any = Group) -> Commands:
    """An empty group; without a command it shows its help."""
    return Commands(
        cls=kind,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"max_content_width": 100},
    )
