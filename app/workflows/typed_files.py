"""Files that users write: text in UTF-8, or what comes in through a pipe."""

import shlex
import sys
from pathlib import Path

from lensbench.errors import DamagedDataError

STDIN = "-"
"""The name of standard input."""


def utf8(path: Path) -> str:
    """The text of a file; of ``-`` what stands on standard input.

    Raises:
        DamagedDataError: bytes that are not UTF-8; says how to convert them.
    """
    try:
        if str(path) == STDIN:
            return sys.stdin.read()
        return path.read_text(encoding="utf-8-sig")  # editors of Windows put a mark in front
    except UnicodeDecodeError as error:
        raise DamagedDataError(
            f"{path} is not UTF-8 text ({error.reason}: byte 0x{error.object[error.start]:02x}); "
            f"convert it first, for instance from Latin-1: iconv -f latin1 -t utf-8 "
            f"{shlex.quote(path.name)}"
        ) from error


def is_there(path: Path) -> bool:
    """Whether there is such a file, or standard input is meant."""
    return str(path) == STDIN or path.is_file()
