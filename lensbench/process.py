"""Which process wrote a status, and whether it is still there: on this machine it can be asked."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def host() -> str:
    """This machine, and where the system tells it, the table of processes that ids are of.

    Containers that share a host's name have tables of their own.
    """
    try:
        table = f" {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        table = ""
    return f"{socket.gethostname()}{table}"


def birth(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where none is, or nobody tells.

    One that was killed and not yet waited for by its parent is none.
    """
    try:  # the second field is a name in brackets, which may hold spaces
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if told[0] == "Z" else int(told[19])
    except (OSError, IndexError, ValueError):
        return None


def of_this() -> dict[str, Any]:
    """What a status says of the process that writes it: ``pid``, ``birth`` and ``host``."""
    return {"pid": os.getpid(), "birth": birth(os.getpid()), "host": host()}


def has_ended(told: Mapping[str, Any]) -> bool:
    """Is it certain that the process of :func:`of_this` is gone?

    False where it ran on another machine, or where the system does not say when processes began:
    ids are used again.
    """
    if told.get("birth") is None or told.get("host") != host():
        return False
    if not Path("/proc/self/stat").is_file():
        return False
    return birth(int(told["pid"])) != told["birth"]
