"""``lensbench store``: look into, check and remove stores of activations."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.asking import confirmed
from lensbench.app.cli.console import Answer, fields, for_people, size, table
from lensbench.app.cli.groups import new_group

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the store.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Stores of captured activations.")
    app.command("ls")(ls)
    app.command("info")(info)
    app.command("verify")(verify)
    app.command("sample")(sample)
    app.command("rm")(remove)
    return app


def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Where to look; default: the current folder."),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="The same as DIR.")] = None,
) -> Answer:
    """List the stores below a folder: model, text, sites, tokens, size."""
    from lensbench.app.workflows.stores import list_stores

    facts = list_stores(folder or root or Path())
    if not facts["stores"]:
        where = facts["root"]
        return Answer(facts, f"no stores below {where}; make one: lensbench capture --help")
    return Answer(facts, table([{**row, "bytes": size(row["bytes"])} for row in facts["stores"]]))


def info(folder: Folder) -> Answer:
    """Show what was captured, from which model and text, and how large it is."""
    from lensbench.app.workflows.stores import store_info

    facts = store_info(folder)
    shown = {k: v for k, v in facts.items() if not isinstance(v, (dict, list))}
    return Answer(facts, fields(for_people(shown)) + "\n\n" + table(facts["sites"]))


def verify(folder: Folder) -> Answer:
    """Compare the checksum of every file and count its rows again; exit code 3 on any problem.

    Takes a store of activations or of latents.
    """
    from lensbench.app.workflows.stores import verify_store

    facts = verify_store(folder)
    return Answer(facts, fields(for_people(facts)))


def sample(
    folder: Folder,
    n: Annotated[int, typer.Option("-n", help="Number of tokens.")] = 8,
    site: Annotated[str | None, typer.Option("--site", help="Site (default: the first).")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which tokens.")] = 0,
) -> Answer:
    """Show a few stored tokens: document, position, id and the size of their activation."""
    from lensbench.app.workflows.stores import sample_store

    facts = sample_store(folder, n=n, site=site, seed=seed)
    return Answer(facts, table(facts["rows"]))


def remove(
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
) -> Answer:
    """Remove a store after asking; only the files of a capture are touched."""
    from lensbench.app.workflows.stores import remove_store, store_size

    what = f"remove the store in {folder} ({size(store_size(folder))})"
    if dry_run:
        return Answer({"removed": False, "folder": str(folder)}, f"would {what}")
    confirmed(what, yes=yes)
    facts = remove_store(folder, yes=True)
    return Answer(facts, fields(facts))
