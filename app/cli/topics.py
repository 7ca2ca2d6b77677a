"""``lensbench help``: the overview, a topic, or the help of a command."""

from typing import Annotated

import typer

from lensbench.app.cli.console import Answer
from lensbench.app.cli.overview import TOPICS
from lensbench.errors import UnknownNameError


def help_(
    topic: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC | COMMAND...]",
            help=f"One of {', '.join(TOPICS)}; or a command, such as train sae.",
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Explain what several commands share, or show the help of one."""
    words = list(topic or ())
    if len(words) == 1 and words[0] in TOPICS:
        return Answer({"topic": words[0], "text": TOPICS[words[0]]}, TOPICS[words[0]])
    text = _of_command(words)
    return Answer({"command": " ".join(words), "text": text}, text)


def _of_command(words: list[str]) -> str:
    from lensbench.app.cli.root import build

    command = typer.main.get_command(build())
    context = command.make_context("lensbench", [], resilient_parsing=True)
    for i, word in enumerate(words):
        known = getattr(command, "commands", {})
        if word not in known:
            topics = TOPICS if i == 0 else ()
            raise UnknownNameError("command or topic", word, known=[*known, *topics])
        command = known[word]
        context = command.make_context(word, [], parent=context, resilient_parsing=True)
    return command.get_help(context)
