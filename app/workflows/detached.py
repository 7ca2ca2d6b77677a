"""Commands that go on after the terminal closes: started apart, written to a log, found again."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.errors import MismatchError

JOB_FILE, LOG_FILE = "job.json", "log.txt"


def start(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run ``lensbench ARGUMENTS`` in a session of its own; its output goes to ``folder/log.txt``.

    ``folder/job.json`` holds process id, command and start, so that a second start is refused
    while the first one runs.

    Raises:
        MismatchError: a job of this folder is still running.
        DataError: the folder is not writable.
    """
    path = folder / JOB_FILE
    if path.is_file() and is_running(job := io.read_json(path)):
        raise MismatchError(
            f"{folder} has a job that is still running (process {job['pid']}, started "
            f"{job['started']}); wait for it, stop it with `kill {job['pid']}`, or choose another "
            "--out"
        )
    command = [sys.executable, "-m", "lensbench", *arguments]
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    io.write_json(path, {"pid": 0, "command": command, "started": started})  # writable at all?
    _reap()
    with (folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _children.append(process)
    io.write_json(path, {"pid": process.pid, "command": command, "started": started,
                         "birth": _birth(process.pid)})  # fmt: skip
    return {"folder": str(folder), "pid": process.pid, "log": str(folder / LOG_FILE)}


_children: list[subprocess.Popen[bytes]] = []


def _reap() -> None:
    """Let go of our own processes that have ended; they go on without us, but do not linger."""
    _children[:] = [child for child in _children if child.poll() is None]


def is_running(job: dict[str, Any]) -> bool:
    """Does the process of a ``job.json`` still run, here and as this job?"""
    _reap()
    pid = int(job["pid"])
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # Ids are used again: where the system tells a process' command, it has to be ours.
    told = Path(f"/proc/{pid}/cmdline")
    if not told.is_file():
        return True
    ours = told.read_bytes().split(b"\0")[1:3] == [b"-m", b"lensbench"]
    return ours and job.get("birth") in (None, _birth(pid))


def _birth(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where the system does not tell."""
    path = Path(f"/proc/{pid}/stat")
    try:  # the second field is a name in brackets, which may hold spaces
        return int(path.read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
