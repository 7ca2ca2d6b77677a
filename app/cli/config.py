"""``lensbench config``: what a configuration comes to, its schema, and one key in words."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer, dump, fields
from lensbench.app.cli.groups import new_group

_SECTIONS = "source, train, sweep, evaluate, dashboard, contexts, tune, world"


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Configurations: resolve one, print its schema, explain one key.")
    app.command("show")(show)
    app.command("schema")(schema)
    app.command("explain")(explain)
    return app


def show(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config", "-c", help="Sweep file (YAML). Repeatable; later ones win, key by key."
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key: train.batch=2048, sweep.k=16,32. Repeatable."),
    ] = None,
) -> Answer:
    """Show what `train sae` would run: every default filled in, grids expanded, nothing trained."""
    from lensbench.app.workflows.resolving import resolved

    facts = resolved(tuple(config or ()), tuple(assign or ()))
    return Answer(facts["config"], facts["yaml"])


def schema(
    section: Annotated[
        str, typer.Argument(metavar="[SECTION]", help=f"file (a whole sweep file), {_SECTIONS}.")
    ] = "file",
) -> Answer:
    """Print the JSON schema of a configuration, for editors and other programs."""
    from lensbench.app.workflows.config_tree import schema_of

    found = schema_of(section)
    return Answer(found, dump(found))


def explain(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help=f"Such as sweep.k, lr, or a whole section: {_SECTIONS}"),
    ],
) -> Answer:
    """Explain one setting: meaning, type, default, range, and which architectures take it."""
    from lensbench.app.workflows.config_tree import SAID, explain_key, explain_section

    rows = explain_section(key) if key in SAID else explain_key(key)
    return Answer({"settings": rows}, "\n\n".join(_told(row) for row in rows))


def _told(row: dict[str, Any]) -> str:
    default = "left out" if row["default"] is None else row["default"]
    about = {"type": row["type"], "default": default}
    about |= {"range": row["range"]} if row["range"] else {}
    about |= {"of": ", ".join(row["of"])} if row["of"] else {}
    about |= {"not of": ", ".join(row["not_of"])} if row["not_of"] else {}
    body = "\n".join(f"  {line}" for line in fields(about).split("\n"))
    return f"{row['key']}\n  {row['meaning'] or 'not described'}\n{body}"
