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
