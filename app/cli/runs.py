"""``lensbench runs``: list and show run folders, and what is noted on their latents."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli import notes
from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import new_group


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Run folders of trained dictionaries.")
    app.command("ls")(ls)
    app.command("show")(show)
    app.command("push")(push)
    app.command("pull")(pull)
    app.add_typer(notes.group(), name="notes")
    return app


def ls(
    root: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs"),
) -> Answer:
    """Run folders under DIR: state, dictionaries, tokens."""
    from lensbench.app.workflows.runs import list_runs

    facts = list_runs(root)
    return Answer(facts, table(facts["runs"]))


def show(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]) -> Answer:
    """One run: its configuration, each dictionary's last numbers, its evaluation where made."""
    from lensbench.app.workflows.runs import show_run

    facts = show_run(run)
    shown = {k: v for k, v in facts.items() if not isinstance(v, (dict, list))}
    return Answer(facts, fields(shown) + "\n\n" + table(facts["dictionaries"]))


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Model repository.")],
    names: Annotated[
        list[str] | None, typer.Option("--only", help="Only this dictionary. Repeatable.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="lensbench, sae_lens, dictionary_learning, sparsify, llamascopium, gemma_scope, "
            "openai.",
        ),
    ] = "lensbench",
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
