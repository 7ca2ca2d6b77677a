"""From arguments to an exit code: the only place where errors become messages.

Exit codes: 0 ok, 1 a bug, 2 usage or configuration, 3 missing or damaged data or model, 4 over a
stated budget, 130 stopped after what was finished was saved. stdout carries the answer and nothing
else: whatever libraries print goes to stderr.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from lensbench.app.cli.console import Answer, dump
from lensbench.errors import LensbenchError, StoppedError

BUG, USAGE, STOPPED = 1, 2, 130
_LISTS = ("--sites",)  # options that take several values in a row


@dataclass(frozen=True)
class Flags:
    """Options that hold for every command and may stand anywhere in the line."""

    json: bool = False
    traceback: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the answer is on stdout, the rest on stderr."""
    args, flags = read_flags(list(sys.argv[1:] if argv is None else argv))
    out = sys.stdout
    with _stop_on_term():
        code, answer = _guarded(args, flags, out)
    if answer is not None:
        out.write((dump(answer.document) if flags.json else answer.text.rstrip()) + "\n")
        out.flush()
    return code


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


def _guarded(args: list[str], flags: Flags, out: Any) -> tuple[int, Answer | None]:
    from lensbench.app.cli.root import build

    if args[:1] == ["--version"]:
        return 0, _version()
    try:
        # Help is an answer too: it belongs on the real stdout.
        with redirect_stdout(out if _wants_help(args) else sys.stderr):
            result = build()(args=args, prog_name="lensbench", standalone_mode=False)
    except KeyboardInterrupt:
        return _stopped(flags)
    except LensbenchError as error:
        return _failed(error, error.exit_code, flags)
    except Exception as error:  # the boundary: what nobody raised on purpose is a bug, exit 1
        if hasattr(error, "format_message"):  # typer's own: unknown option, missing argument
            return _failed(error, USAGE, flags, _usage(error))
        return _failed(error, BUG, flags, _bug(error))
    if isinstance(result, Answer):
        return result.exit_code, result
    if result == STOPPED:  # typer turns an interrupt into this code
        return _stopped(flags)
    return (result if isinstance(result, int) else 0), None


def _version() -> Answer:
    from lensbench import __version__

    return Answer({"version": __version__}, __version__)


def _stopped(flags: Flags) -> tuple[int, Answer | None]:
    return _failed(StoppedError("stopped; what was finished is on disk"), STOPPED, flags)


def _failed(
    error: BaseException, code: int, flags: Flags, message: str | None = None
) -> tuple[int, Answer | None]:
    text = str(error) if message is None else message
    if flags.traceback:
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"lensbench: {text}\n")
    sys.stderr.flush()
    document = {"error": {"kind": type(error).__name__, "message": text, "exit_code": code}}
    return code, Answer(document, exit_code=code) if flags.json else None


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    where = f" (see: {context.command_path} --help)" if context is not None else ""
    return f"{error.format_message()}{where}"


def _bug(error: Exception) -> str:
    return (
        f"this is a bug in lensbench: {type(error).__name__}: {error}\n"
        "Run the command again with --traceback (or LENSBENCH_DEBUG=1) to see where it happened."
    )


def _wants_help(args: Sequence[str]) -> bool:
    return not args or "--help" in args


@contextmanager
def _stop_on_term() -> Generator[None]:
    """A polite kill is an interrupt: the work is saved, exit code 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
