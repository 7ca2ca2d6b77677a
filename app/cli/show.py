"""``lensbench show``: a saved result again, as a table or as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.results import result_answer


def show(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What --out of a command, or .save(), wrote.")
    ],
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--view", help="What --html draws: an argument of .plot(), such as metric=kl."
        ),
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Column to sort by, largest first.")] = "",
    top: Annotated[int, typer.Option("--top", min=1, help="Rows to print.")] = 20,
) -> Answer:
    """Show a saved result: its rows, summary and controls; --html, --svg and --png draw it."""
    from lensbench.app.workflows.saved import saved_facts

    facts = saved_facts(folder, view=tuple(view or ()), by=by, top=top)
    return result_answer(facts, head=f"{facts['kind']}, {facts['made']}")
