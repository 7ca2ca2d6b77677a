"""From arguments to an exit code: the only place where errors become messages.

Exit codes: 0 ok, 1 a bug, 2 usage or configuration, 3 missing or damaged data or model, 4 over a
stated budget, 130 stopped after what was finished was saved. stdout carries the answer and nothing
else: whatever libraries print goes to stderr.
"""

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

from lensbench.app.cli.console import Answer, dump
from lensbench.app.cli.fitting import VERBATIM, fitted, terminal_width, wrapped
from lensbench.app.cli.flags import Flags, read_flags, usage_message
from lensbench.errors import LensbenchError, StoppedError

BUG, USAGE, MISSING, STOPPED = 1, 2, 3, 130
ASK = "__complete"
"""What the scripts of ``lensbench completion`` call."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the answer is on stdout, the rest on stderr."""
    args, flags = read_flags(list(sys.argv[1:] if argv is None else argv))
    _any_terminal()
    try:
        out = sys.stdout
        with _stop_on_term(), fitted(terminal_width()):
            code, answer = _guarded(args, flags)
            if answer is not None:
                text = dump(answer.document) if flags.json else _told(args, answer.text.rstrip())
                out.write(text + "\n")
        out.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough: that is no failure
        _nobody_listens()
        return 0
    except OSError as error:  # what commands meet is handled in _guarded: this is stdout, full
        _nobody_listens()
        sys.stderr.write(f"lensbench: cannot write the answer to stdout: {error.strerror}\n")
        return MISSING
    except KeyboardInterrupt:  # while the answer was being written
        return STOPPED
    if argv is None:
        _ending(code)
    return code


def _told(args: list[str], text: str) -> str:
    """The answer in words, as wide as the terminal; scripts, YAML and help are left as they are."""
    return text if not args or args[0] in VERBATIM or "--help" in args else wrapped(text)


def _guarded(args: list[str], flags: Flags) -> tuple[int, Answer | None]:
    if args[:1] == ["--version"]:
        return 0, _version()
    if args[:1] == [ASK]:
        return 0, _completed(args[1:])
    said = StringIO() if not args or "--help" in args else None  # help is an answer too
    try:
        from lensbench.app.cli.root import build

        with redirect_stdout(said or sys.stderr):
            result = build()(args=args or ["--help"], prog_name="lensbench", standalone_mode=False)
    except KeyboardInterrupt:
        return _stopped(flags)
    except LensbenchError as error:
        return _failed(error, error.exit_code, flags)
    except BrokenPipeError:
        raise
    except Exception as error:  # the boundary: what nobody raised on purpose is a bug, exit 1
        if _interrupted(error):  # a library wrapped the interrupt into an error of its own
            return _stopped(flags)
        if hasattr(error, "format_message"):  # typer's own: unknown option, missing argument
            return _failed(error, USAGE, flags, usage_message(error))
        if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
            return _failed(error, MISSING, flags, _memory(error))
        if isinstance(error, OSError) and error.filename is not None:
            return _failed(error, MISSING, flags, _file(error))
        return _failed(error, BUG, flags, _bug(error))
    if isinstance(result, Answer):
        return result.exit_code, result
    if said is not None and said.getvalue():
        return 0, Answer({"help": said.getvalue()}, said.getvalue())
    if result == STOPPED:  # typer turns an interrupt into this code
        return _stopped(flags)
    return (result if isinstance(result, int) else 0), None


def _version() -> Answer:
    from lensbench import __version__

    return Answer({"version": __version__}, __version__)


def _completed(arguments: list[str]) -> Answer:
    from lensbench.app.cli.completion import complete

    return Answer({}, complete(arguments))


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


def _file(error: OSError) -> str:
    """What the system refused, and of which file: no permission, no room, a folder for a file."""
    return f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"


def _memory(error: Exception) -> str:
    first = str(error).partition("\n")[0] or "no room"
    return f"out of memory: {first}; lower --batch-size, --context or what is read at once"


def _bug(error: Exception) -> str:
    return (
        f"this is a bug in lensbench: {type(error).__name__}: {error}\n"
        "Run the command again with --traceback (or LENSBENCH_DEBUG=1) to see where it happened."
    )


def _interrupted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _any_terminal() -> None:
    """A terminal that lacks a character is shown its code and no traceback."""
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        if encoding != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _ending(code: int) -> None:
    """The answer is out: from here on Ctrl-C hurries the end and changes neither code nor words.

    Python tears down for a while. It would show an interrupt as a traceback, and near its end puts
    the system's own handler back, which kills: so the last thing done is to ignore it.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _nobody_listens() -> None:
    """Python flushes both streams as it ends, which would fail again, aloud."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
