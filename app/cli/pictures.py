"""``--html``, ``--svg``, ``--png`` and ``--csv`` of every command that answers with a result.

One place for all of them: a command whose ``--out`` is a folder for its result gets the options by
that, and needs to know nothing of pictures.
"""

import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from lensbench.app.cli.console import Answer
from lensbench.errors import ConfigError

RESULT = "Folder to save the result in"
"""How the help of ``--out`` begins where a command answers with a result."""
DRAWN = ("html", "svg", "png", "csv")
_OTHER = (*DRAWN, "htm", "pdf", "jpg", "json")


def options_for(params: list[Any]) -> list[Any]:
    """The options of pictures, where a command's own make it one that answers with a result."""
    out = _out(params)
    draws = out is not None and (out.help or "").startswith(RESULT)
    return _options() if draws or any("--view" in p.opts for p in params) else []


def drawn_by(params: list[Any], values: dict[str, Any], path: str, run: Callable[[], Any]) -> Any:
    """Run a command and draw its results where that was asked for; its answer says so.

    Raises:
        ConfigError: ``--out`` names a file where a folder is meant.
        LensbenchError: see ``workflows.drawing``.
    """
    asked = {kind: values.pop(kind, None) for kind in DRAWN} if options_for(params) else {}
    wanted = {kind: Path(name) for kind, name in asked.items() if name}
    _require_folder(_out(params), values.get("out"), bool(asked))
    if not wanted:
        return run()
    from lensbench.app.workflows.answers import kept_results
    from lensbench.app.workflows.drawing import check_wanted, draw_results

    check_wanted(wanted)
    with kept_results() as results:
        answer = run()
    written = draw_results(results, wanted, path)
    told = f"{answer.text}\ndrawn in {', '.join(written)}"
    return Answer({**answer.document, "drawn": written}, told, answer.exit_code)


def _out(params: list[Any]) -> Any:
    return next((p for p in params if "--out" in p.opts), None)


def _require_folder(option: Any, value: Any, draws: bool) -> None:
    """A folder called ``x.html`` is never what was meant."""
    if option is None or value is None or "older" not in (option.help or "")[:10]:
        return
    path = Path(str(value))
    ending = path.suffix[1:].lower()
    if ending in _OTHER and not path.is_dir():
        way = (
            f"for a file: {_way(ending)} {shlex.quote(str(path))}"
            if draws
            else "choose another name"
        )
        raise ConfigError(f"--out names a folder, and {path} looks like a file; {way}")
    if path.is_file():
        raise ConfigError(f"--out names a folder, and {path} is a file; choose another name")


def _way(ending: str) -> str:
    if ending == "json":
        return "--json >"
    return f"--{ending}" if ending in DRAWN else "--html"


@cache
def _options() -> list[Any]:
    """Made by typer from a signature, as all options are."""
    app = typer.Typer(add_completion=False)
    app.command()(_asked)
    command: Any = typer.main.get_command(app)
    return [p for p in command.params if p.name in DRAWN]


def _asked(
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw it: a page that opens offline.")
    ] = None,
    svg: Annotated[
        str | None, typer.Option(metavar="FILE", help="The picture as SVG (needs Chromium).")
    ] = None,
    png: Annotated[
        str | None, typer.Option(metavar="FILE", help="The picture as PNG (needs Chromium).")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="All rows of the result as CSV.")
    ] = None,
) -> None:
    del html, svg, png, csv
