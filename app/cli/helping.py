"""How help reads: options in groups, examples that can be typed, one line per command.

The classes stand between typer and our commands, so that no command has to say any of it.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

from lensbench.app.cli.examples import EXAMPLES
from lensbench.app.cli.pictures import drawn_by, options_for

MANY = 9
"""From this many options on they are shown in groups."""
GROUPS = {
    "Input": "model revision store stores text texts prompt prompts pairs task config labels "
    "label-file targets words tokenizer against root",
    "Running": "batch-size device seed dtype precision max-tokens max-rows resume array detach "
    "dry-run threads sinks repeats live",
    "Output": "out html svg png csv top overwrite keep yes texts help",
}
TITLES = ("Input", "Options", "Running", "Output")


class Command(TyperCommand):
    """A command whose help groups its options and ends with its examples; it draws its results."""

    def __init__(self, *args: Any, params: Any = (), **kwargs: Any) -> None:
        """Typer's, with the options of pictures where the command answers with a result."""
        own = list(params or ())
        super().__init__(*args, params=[*own, *options_for(own)], **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and draw what it measured where that was asked for."""
        run = super().invoke
        return drawn_by(self.params, ctx.params, ctx.command_path, lambda: run(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options by what they are for."""
        params = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx)]
        shown: list[tuple[Any, Any]] = [(p, record) for p, record in params if record is not None]
        arguments = [r for p, r in shown if p.param_type_name == "argument"]
        options = [(p, r) for p, r in shown if p.param_type_name == "option"]
        _section(formatter, "Arguments", arguments)
        if len(options) < MANY:
            _section(formatter, "Options", [record for _, record in options])
            return
        for title in TITLES:
            _section(formatter, title, [r for p, r in options if _title(p) == title])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples, one to a line, never broken: they are there to be copied."""
        lines = EXAMPLES.get(ctx.command_path.partition(" ")[2], ())
        if lines:
            formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in lines))


class Group(TyperGroup):
    """A group that lists its commands with the whole first sentence of each."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's
        """Name and first sentence of every command."""
        _section(formatter, "Commands", rows_of(self))


class Root(Group):
    """The whole tool: commands by what one wants to do, the first steps first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Commands before options: there are only two of these."""
        self.format_commands(ctx, formatter)
        records = [p.get_help_record(ctx) for p in self.get_params(ctx)]
        _section(formatter, "Options", [r for r in records if r is not None])

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's
        """Sections of commands, in the order in which one meets them."""
        from lensbench.app.cli.overview import SECTIONS, START, TOPICS

        formatter.write(f"\nStart here:\n{START}")
        known = dict(rows_of(self))
        for title, names in SECTIONS.items():
            _section(formatter, title, [(name, known[name]) for name in names])
        formatter.write(
            f"\nMore: lensbench COMMAND --help\n      lensbench help {' | '.join(TOPICS)}\n"
        )


def rows_of(group: Any) -> list[tuple[str, str]]:
    """The commands of a group that are not hidden, each with its first sentence."""
    return [
        (name, first_sentence(command.help or ""))
        for name, command in group.commands.items()
        if not command.hidden
    ]


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(text.strip().partition("\n\n")[0].split())


def _title(param: Any) -> str:
    name = param.opts[0].lstrip("-")
    return next((title for title, names in GROUPS.items() if name in names.split()), "Options")


def _section(formatter: Any, title: str, rows: list[Any]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)
