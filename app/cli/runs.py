"""``lensbench runs``: list, show, compare, share and remove run folders."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli import notes, runs_share
from lensbench.app.cli.asking import confirmed
from lensbench.app.cli.console import Answer, fields, size, table
from lensbench.app.cli.groups import new_group


def group() -> typer.Typer:
    """The commands of this file."""
    app = new_group("Run folders of trained dictionaries.")
    app.command("ls")(ls)
    app.command("show")(show)
    app.command("diff")(diff)
    app.command("rm")(rm)
    app.command("export")(runs_share.export)
    app.command("push")(runs_share.push)
    app.command("pull")(runs_share.pull)
    app.add_typer(notes.group(), name="notes")
    return app


def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Where to look; default: the current folder."),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="The same as DIR.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            help="Only those running, finished, incomplete, stopped, failed, lost (repeatable).",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", help="started, run, state, tokens or dictionaries.")
    ] = "started",
    newest: Annotated[
        int | None, typer.Option("--first", min=1, help="Only so many of the list.")
    ] = None,
) -> Answer:
    """List the run folders below a folder: state, dictionaries, tokens."""
    from lensbench.app.workflows.runs import list_runs, told_twins

    where = folder or root or Path()
    facts = list_runs(where, states=tuple(state or ()), sort=sort)
    found = len(facts["runs"])
    facts["runs"] = facts["runs"][:newest]
    if not found:
        return Answer(facts, f"no runs below {facts['root']}; make one: lensbench train sae --help")
    more = "" if newest is None or newest >= found else f"\n{newest} of {found} runs"
    more += f"\n{left}" if (left := told_twins(where)) else ""
    return Answer(facts, table([_shown(row) for row in facts["runs"]]) + more)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its state in words: of an array, how many of its parts are finished."""
    from lensbench.app.workflows.run_parts import told_state

    kept = {k: v for k, v in row.items() if k not in ("parts", "parts_finished")}
    return kept | {"state": told_state(row)}


def show(run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]) -> Answer:
    """Show one run: its configuration, each curve's last numbers, its evaluation where made."""
    from lensbench.app.workflows.run_show import show_run

    facts = show_run(run)
    shown = {k: v for k, v in _shown(facts).items() if not isinstance(v, (dict, list)) and v != ""}
    said = [fields(shown)]
    if "each_part" in facts:
        said.append(table(facts["each_part"]))
    said.append(table(facts["dictionaries"]))
    if left := facts.get("to_finish"):
        how = "what is left, a part each:" if "each_part" in facts else "go on with it:"
        said.append("\n".join([how, *(f"  {line}" for line in left)]))
    if (evaluated := facts.get("evaluation")) is not None:
        said.append(f"evaluation\n{fields(evaluated)}")
    return Answer(facts, "\n\n".join(said))


def diff(
    one: Annotated[Path, typer.Argument(metavar="A", help="Run, or RUN/NAME.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Run, or RUN/NAME.")],
    every: Annotated[
        bool, typer.Option("--all", help="All of the provenance, and the controls too.")
    ] = False,
) -> Answer:
    """Compare two runs: settings that differ, whether numbers compare, what each reaches."""
    from lensbench.app.workflows.comparing import compared_in_text, compared_runs

    facts = compared_runs(one, other)
    return Answer(facts, compared_in_text(facts, every=every, table=table))


def rm(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")
    ] = False,
) -> Answer:
    """Remove a run that is not running, after asking; what is not a run's stays."""
    from lensbench.app.workflows.removing import holdings, refuse_running, remove_run

    facts = holdings(run)
    what = (
        f"remove {facts['dictionaries']} dictionaries in {facts['files']} files "
        f"({size(facts['bytes'])}) of {run}"
    )
    stays = f"; left in place: {', '.join(facts['stays'])}" if facts["stays"] else ""
    if dry_run:
        return Answer({"removed": False, **facts}, f"would {what}{stays}")
    refuse_running(facts)
    confirmed(what, yes=yes)
    return Answer(remove_run(run), f"removed{what.removeprefix('remove')}{stays}")
