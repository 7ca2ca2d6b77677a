"""Studies that jobs of pages leave below the root: named from what was asked for, found again.

A page asks :func:`opened` first, and draws what is there; the job that makes it is offered by
``widgets.fit_job``. What is removed here is a study in its folder, never anything else.
"""

import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from lensbench.app.workflows import jobs
from lensbench.app.workflows.finding import once
from lensbench.errors import ConfigError, MissingDataError
from lensbench.results import Result, load

FILE = "result.json"
R = TypeVar("R", bound=Result)


def place(root: Path, kind: str, name: str, *asked: object) -> Path:
    """The folder of a study: another one for everything that was ``asked`` for."""
    print_ = sha256(repr(asked).encode()).hexdigest()[:8]
    return root / kind / f"{name}-{print_}"


def print_of(file: str) -> str:
    """What tells a file from an edited one; empty where ``file`` is no file."""
    path = Path(file)
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def opened(folder: Path, kind: type[R]) -> R | None:
    """The study that a job has left; None until it is finished.

    Raises:
        DamagedDataError: it cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    found = once(file, "study", lambda path: load(path.parent))
    return found if isinstance(found, kind) else None


def is_saved(settings: Mapping[str, Any]) -> bool:
    """Whether a job has left what these settings ask for."""
    return (Path(settings["out"]) / FILE).is_file()


def told_of(found: Result) -> str:
    """Where a study is from, in a line."""
    model = found.provenance.model
    return f"{model.get('name')} {model.get('fingerprint')}, {found.provenance.when}"


def load_code(folder: Path, then: str, *imports: str) -> str:
    """Python that opens a study as ``found``, and draws ``then`` of it."""
    opening = ["from lensbench.results import load", "", f"found = load({str(folder)!r})"]
    return "\n".join([*imports, *opening, then])


def job_of(root: Path, kind: str, settings: Mapping[str, Any]) -> jobs.Job | None:
    """The job of a study, as it stands; None where there is none (any more)."""
    try:
        return jobs.look(root, jobs.name_of(kind, target_of(root, settings)))
    except MissingDataError:
        return None


def target_of(root: Path, settings: Mapping[str, Any]) -> str:
    """What a reader calls the job of these settings: the folder in which it leaves something."""
    if "out" in settings:
        return Path(settings["out"]).name
    return Path(settings["keep"]).relative_to(root).as_posix()


def remove(root: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Remove a study and the note of its job.

    Raises:
        MismatchError: the job goes on.
        ConfigError: the folder is a link, or not below ``root``.
    """
    out = Path(settings["out"])
    if out.is_symlink() or not out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{out} is not a folder of {root}; remove it yourself")
    if (job := job_of(root, kind, settings)) is not None:
        jobs.remove(root, job.name)
    if (out / FILE).is_file():
        (out / FILE).unlink()  # first: what is half removed is no study
        shutil.rmtree(out)
