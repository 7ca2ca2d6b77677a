"""``lensbench store``: look into, check and remove stores of activations."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import new_group

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the store.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Stores of captured activations.")
    app.command("info")(info)
    app.command("verify")(verify)
    app.command("sample")(sample)
    app.command("rm")(remove)
    return app


def info(folder: Folder) -> Answer:
    """What was captured, from which model and text, and how large it is."""
    from lensbench.app.workflows.stores import store_info

    facts = store_info(folder)
    shown = {k: v for k, v in facts.items() if not isinstance(v, (dict, list))}
    return Answer(facts, fields(shown) + "\n\n" + table(facts["sites"]))


def verify(folder: Folder) -> Answer:
    """Compare the checksum of every file and count its rows again; exit code 3 on any problem.

    Takes a store of activations or of latents.
    """
    from lensbench.app.workflows.stores import verify_store

    facts = verify_store(folder)
    return Answer(facts, fields(facts))


def sample(
    folder: Folder,
    n: Annotated[int, typer.Option("-n", help="Number of tokens.")] = 8,
    site: Annotated[str | None, typer.Option("--site", help="Site (default: the first).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which tokens.")] = 0,
) -> Answer:
    """A few stored tokens: document, position, id and the size of their activation."""
    from lensbench.app.workflows.stores import sample_store

    facts = sample_store(folder, n=n, site=site, seed=seed)
    return Answer(facts, table(facts["rows"]))


def remove(
    folder: Folder,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this nothing is removed.")
    ] = False,
) -> Answer:
    """Remove a store; only folders that hold a store, and only with --yes."""
    from lensbench.app.workflows.stores import remove_store

    facts = remove_store(folder, yes=yes)
    return Answer(facts, fields(facts))
