"""``lensbench runs notes``: labels, notes and stars on the latents of a run."""

from pathlib import Path
from typing import Annotated

import typer

from lensbench.app.cli.console import Answer, fields, table
from lensbench.app.cli.groups import new_group

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN[/NAME]", help="A run, or one dictionary of it.")
]
LatentArgument = Annotated[int, typer.Argument(metavar="LATENT", help="Number of the latent.")]


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Labels, notes and stars on the latents of a run, kept beside it.")
    app.command("ls")(ls)
    app.command("set")(set_)
    app.command("rm")(rm)
    app.command("export")(export)
    app.command("import")(import_)
    return app


def ls(
    run: RunArgument,
    search: Annotated[
        str, typer.Option("--search", help="Only those with this text in label or note.")
    ] = "",
    starred: Annotated[bool, typer.Option("--starred", help="Only those with a star.")] = False,
) -> Answer:
    """What is said of the latents of a run."""
    from lensbench.app.workflows.notes import list_notes

    facts = list_notes(run, search, starred=True if starred else None)
    rows = [
        {**{k: note[k] for k in ("dictionary", "latent")}, "star": "*" if note["starred"] else "",
         "label": note["label"], "note": " ".join(str(note["note"]).split())}
        for note in facts["notes"]
    ]  # fmt: skip
    return Answer(facts, table(facts["dictionaries"]) + "\n\n" + table(rows))


def set_(
    run: RunArgument,
    latent: LatentArgument,
    label: Annotated[str | None, typer.Option("--label", help="A short name; '' for none.")] = None,
    note: Annotated[str | None, typer.Option("--note", help="A longer text; '' for none.")] = None,
    star: Annotated[bool | None, typer.Option("--star/--no-star", help="Star it, or not.")] = None,
) -> Answer:
    """Label, note or star one latent; what is not given stays."""
    from lensbench.app.workflows.notes import set_note

    facts = set_note(run, latent, label=label, note=note, starred=star)
    return Answer(facts, fields(facts))


def rm(run: RunArgument, latent: LatentArgument) -> Answer:
    """Take back all that is said of one latent."""
    from lensbench.app.workflows.notes import remove_note

    facts = remove_note(run, latent)
    return Answer(facts, fields(facts))


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write: .json or .csv.")],
) -> Answer:
    """Write every note of a run (or of one dictionary) to one file."""
    from lensbench.app.workflows.notes import export_notes

    facts = export_notes(run, out)
    return Answer(facts, fields(facts))


def import_(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace notes that are here already.")
    ] = False,
) -> Answer:
    """Add the notes of a file; those of dictionaries that are not in the run are refused."""
    from lensbench.app.workflows.notes import import_notes

    facts = import_notes(run, file, overwrite=overwrite)
    return Answer(facts, fields(facts))
