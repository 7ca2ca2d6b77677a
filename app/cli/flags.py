"""The line before typer reads it, and its complaints after: flags, rows of values, near names."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

_LISTS = ("--sites",)  # options that take several values in a row


@dataclass(frozen=True)
class Flags:
    """Options that hold for every command and may stand anywhere in the line."""

    json: bool = False
    traceback: bool = False


def read_flags(args: list[str]) -> tuple[list[str], Flags]:
    """Take ``--json`` and ``--traceback`` out of the line; give each value its own ``--sites``."""
    kept: list[str] = []
    found: set[str] = set()
    running: str | None = None
    for i, arg in enumerate(args):
        if arg == "--":
            kept += args[i:]
            break
        if arg in ("--json", "--traceback"):
            found.add(arg)
            running = None
        elif arg in _LISTS:
            kept.append(arg)
            running = arg
        elif running is not None and not arg.startswith("-") and kept[-1] != running:
            kept += [running, arg]
        else:
            running = running if not arg.startswith("-") else None
            kept.append(arg)
    debug = os.environ.get("LENSBENCH_DEBUG", "") not in ("", "0")
    return kept, Flags("--json" in found, "--traceback" in found or debug)


def usage_message(error: Any) -> str:
    """What typer says, and where to read more; of an unknown option the nearest one too."""
    context = getattr(error, "ctx", None)
    said = error.format_message().strip()
    if context is None:
        return said
    if type(error).__name__ == "NoArgsIsHelpError":
        return f"say which command of `{context.command_path}`:\n{_listed(context.command)}"
    wrong = getattr(error, "option_name", None)
    if wrong is not None and "Did you mean" not in said and "Possible" not in said:
        known = [o for p in context.command.params for o in p.opts if o.startswith("--")]
        near = get_close_matches(str(wrong), known, n=1, cutoff=0.5)
        said += f" Did you mean {near[0]}?" if near and "No such" in said else ""
    if wrong is not None and str(wrong)[1:2].isdigit():
        said += f" Write -- before a negative number: {context.command_path} .. -- {wrong}"
    if said.startswith("No such command") and "Did you mean" not in said:
        said += f" Commands: {', '.join(_commands(context.command))}."
    return f"{said} (see: {context.command_path} --help)"


def _listed(group: Any) -> str:
    from lensbench.app.cli.helping import rows_of

    rows = rows_of(group)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {said}" for name, said in rows)


def _commands(group: Any) -> list[str]:
    return [name for name, one in getattr(group, "commands", {}).items() if not one.hidden]
