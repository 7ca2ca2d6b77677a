"""The tree of commands; building it imports nothing heavy."""

from typing import Annotated

import typer

from lensbench.app.cli import (
    accelerate,
    attribute,
    capture,
    circuit,
    clamp,
    completion,
    config,
    demo,
    doctor,
    doses,
    edit,
    encode,
    evaluate,
    experts,
    explain,
    heads,
    latents,
    lens,
    page,
    patch,
    probe,
    readability,
    report,
    runs,
    savings,
    select,
    show,
    steer,
    store,
    topics,
    train,
    world,
)
from lensbench.app.cli.groups import new_group
from lensbench.app.cli.helping import Root

HELP = """Capture a transformer's activations once, then ask them anything.

Every command takes --json (one JSON document on stdout, of errors too) and --traceback. Progress
goes to stderr.
"""


def build() -> typer.Typer:
    """The application with all its commands."""
    app = new_group(HELP, Root)
    app.callback()(_root)
    app.command("demo")(demo.demo)
    app.command("capture")(capture.capture)
    app.add_typer(store.group(), name="store")
    app.command("report")(report.report)
    app.command("show")(show.show)
    app.add_typer(train.group(), name="train")
    app.add_typer(evaluate.group(), name="eval")
    app.command("encode")(encode.encode)
    app.command("explain")(explain.explain)
    app.add_typer(latents.group(), name="latents")
    app.add_typer(lens.group(), name="lens")
    app.add_typer(probe.group(), name="probe")
    app.add_typer(heads.group(), name="heads")
    app.add_typer(experts.group(), name="experts")
    app.command("patch")(patch.patch)
    app.command("attribute")(attribute.attribute)
    app.add_typer(circuit.group(), name="circuit")
    app.add_typer(edit.group(), name="edit")
    app.add_typer(clamp.group(), name="clamp")
    app.add_typer(select.group(), name="select")
    app.command("steer")(steer.steer)
    app.command("doses")(doses.doses)
    app.command("accelerate")(accelerate.accelerate)
    app.add_typer(savings.group(), name="savings")
    app.command("readability")(readability.readability)
    app.add_typer(runs.group(), name="runs")
    app.add_typer(world.group(), name="world")
    app.command("doctor")(doctor.doctor)
    app.command("app")(page.app)
    app.add_typer(config.group(), name="config")
    app.command("completion")(completion.completion)
    app.command("help")(topics.help_)
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version."),
    ] = False,
) -> None:
    del version  # `main` has answered: an answer may have to be JSON
