"""``lensbench runs export``, ``push`` and ``pull``: dictionaries in the formats of others."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table

FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="lensbench, sae_lens, dictionary_learning, sparsify, llamascopium, gemma_scope, "
        "openai.",
    ),
]


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/NAME]",
            help="A run, one dictionary of it, or a dictionary in any format of saes.load.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder; of several, one folder in it each.")],
    format: FormatOption = "sae_lens",
    names: Annotated[
        list[str] | None, typer.Option("--only", help="Only this dictionary. Repeatable.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
) -> Answer:
    """Write trained dictionaries in SAELens' format, or another, and read them back to check."""
    from lensbench.app.workflows.exporting import export_dictionaries

    facts = export_dictionaries(run, out, format, tuple(names or ()), overwrite=overwrite)
    rows = [{k: v for k, v in row.items() if k != "files"} for row in facts["dictionaries"]]
    sums = "checksums: SHA256SUMS beside the files (sha256sum --check SHA256SUMS)"
    code = facts["read_by"].replace("\n\n", "\n").replace("\n", "\n  ")
    return Answer(facts, f"{table(rows)}\n\n{sums}\nread it with:\n  {code}")


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Model repository.")],
    names: Annotated[
        list[str] | None, typer.Option("--only", help="Only this dictionary. Repeatable.")
    ] = None,
    format: FormatOption = "lensbench",
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="A branch.")] = None,
) -> Answer:
    """Upload the dictionaries of RUN to the hub as one commit, with a card."""
    from lensbench.app.workflows.hub import push as send

    chosen = tuple(names or ())
    facts = send(
        run, repo, chosen, format=format, private=private, overwrite=overwrite, revision=revision
    )
    return Answer(facts, fields(facts))


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="hf://owner/name[/path][@revision].")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the dictionary.")],
    format: Annotated[
        str | None, typer.Option("--format", help="Where its files do not say it.")
    ] = None,
) -> Answer:
    """Bring one dictionary from the hub into a folder, in our format."""
    from lensbench.app.workflows.hub import pull as fetch

    facts = fetch(name, out, format)
    return Answer(facts, fields(facts))
