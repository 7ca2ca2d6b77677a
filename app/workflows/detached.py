"""Processes that go on after the page or terminal closes: started apart, found again, stopped.

A folder belongs to one process at a time. ``job.json`` names it by id and birth, because ids are
used again; ``log.txt`` holds what it said. What it works on, a run (``launching``) or any other
long work (``jobs``), is not known here.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.app.workflows.settings import ENVIRONMENT
from lensbench.errors import MismatchError
from lensbench.process import birth

JOB_FILE, LOG_FILE, TURN_FILE = "job.json", "log.txt", ".turn"
JOBS = "jobs"
"""Folder below the root with a folder for each job of a page; runs have folders of their own."""
TAIL = 20_000
"""Bytes of a log that are read for its last lines."""


def start(arguments: Sequence[str], folder: Path, *, module: str = "lensbench") -> dict[str, Any]:
    """Run ``python -m MODULE ARGUMENTS`` in a session of its own; it writes ``folder/log.txt``.

    ``folder/job.json`` holds process id, command and start, so that a second start is refused
    while the first one runs.

    Raises:
        MismatchError: a job of this folder is still running.
        DataError: the folder is not writable.
    """
    path = folder / JOB_FILE
    if is_running(job := job_of(folder)):
        raise MismatchError(
            f"{folder} has a job that is still running (process {job['pid']}, started "
            f"{job['started']}); wait for it, stop it with `kill {job['pid']}`, or choose another "
            "--out"
        )
    command = [sys.executable, "-m", module, *arguments]
    started = now()
    io.write_json(path, {"pid": 0, "command": command, "started": started})  # writable at all?
    _reap()
    # What was asked for is whole: settings of the shell would change it behind the user's back.
    around = {k: v for k, v in os.environ.items() if k != ENVIRONMENT}
    with (folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True, env=around)  # fmt: skip
    _children.append(process)
    io.write_json(path, {"pid": process.pid, "command": command, "started": started,
                         "birth": birth(process.pid)})  # fmt: skip
    return {"folder": str(folder), "pid": process.pid, "log": str(folder / LOG_FILE)}


def job_of(folder: Path) -> dict[str, Any]:
    """What ``job.json`` says of the process of a folder; process 0 where there was none."""
    path = folder / JOB_FILE
    return io.read_json(path) if path.is_file() else {"pid": 0}


def stop(folder: Path) -> bool:
    """Ask the process of a folder to save what it has and end (SIGTERM); False if it has ended."""
    job = job_of(folder)
    if not is_running(job):
        return False
    io.write_json(folder / JOB_FILE, {**job, "stopping": True})
    os.kill(int(job["pid"]), signal.SIGTERM)
    return True


def still_there(folder: Path, patience: float = 0.0) -> bool:
    """Whether the process of a folder lives after ``patience`` seconds in which it may end."""
    until = time.monotonic() + patience
    while is_running(job_of(folder)):
        if time.monotonic() >= until:
            return True
        time.sleep(0.05)
    return False


def log_tail(folder: Path, lines: int = 30) -> str:
    """The last lines of what the process of a folder has said."""
    path = folder / LOG_FILE
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])


@contextmanager
def turn(folder: Path) -> Generator[None]:
    """Of several pages that want to start something in a folder, one at a time."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TURN_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def now() -> str:
    """The time as states tell it, UTC to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


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
    flag, module, *_ = (*told.read_bytes().split(b"\0")[1:3], b"", b"")
    ours = flag == b"-m" and module.partition(b".")[0] == b"lensbench"
    return ours and job.get("birth") in (None, birth(pid))
