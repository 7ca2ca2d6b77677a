"""Taking a run away: what it holds, how much, and what in its folder is not a run's.

Only what lensbench wrote is removed. Anything else in the folder stays, and so does the folder
then; nothing behind a link is touched.
"""

import shutil
from pathlib import Path
from typing import Any

from lensbench.app.workflows.detached import JOB_FILE, LOG_FILE
from lensbench.app.workflows.launching import REQUEST_FILE
from lensbench.app.workflows.runs import EVALUATION, LIVE, TWIN, parts_of, run_row
from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.runs import STATUS_FILE, SWEEP_FILE, read_status

OWN = (
    STATUS_FILE, SWEEP_FILE, REQUEST_FILE, JOB_FILE, LOG_FILE, "provenance.json", "report.html",
    EVALUATION, TWIN, "ranks", ".turn", ".lock", ".*.tmp",
)  # fmt: skip
"""What a run holds beside its dictionaries and parts."""


def holdings(run: Path) -> dict[str, Any]:
    """What removing a run would take away: dictionaries, files, bytes, and what would stay.

    Raises:
        MissingDataError: no run there.
        ConfigError: a link, or a folder that holds the place one stands in.
    """
    if run.is_symlink():
        raise ConfigError(f"{run} is a link to {run.resolve()}; name that folder itself")
    parts = parts_of(run)
    if Path.cwd().resolve().is_relative_to(run.resolve()):
        raise ConfigError(f"{run} holds the folder you stand in; leave it first")
    row = run_row(run)
    files = [path for place in _own(run) for path in _files(place)]
    kept = sorted(str(p.relative_to(run)) for p in run.iterdir() if p not in _own(run))
    return {
        "run": str(run),
        "state": row["state"],
        "dictionaries": sum(len(read_status(part)["dictionaries"]) for part in parts),
        "files": len(files),
        "bytes": sum(path.lstat().st_size for path in files),
        "stays": kept,
    }


def remove_run(run: Path) -> dict[str, Any]:
    """Remove a run for good; what is not a run's stays and is named.

    Raises:
        MissingDataError: no run there.
        MismatchError: it is running.
        ConfigError: see :func:`holdings`.
    """
    facts = holdings(run)
    refuse_running(facts)
    for place in _own(run):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
    if not any(run.iterdir()):
        run.rmdir()
    return {"removed": True, **facts}


def refuse_running(facts: dict[str, Any]) -> None:
    """Nothing is removed from under a process.

    Raises:
        MismatchError: the run goes on.
    """
    if facts["state"] in LIVE:
        raise MismatchError(
            f"{facts['run']} is {facts['state']}; stop it first (Ctrl-C where it runs, or the page "
            "Runs), then remove it"
        )


def _own(run: Path) -> list[Path]:
    """What a run wrote at the top of its folder."""
    found = {path for pattern in OWN for path in run.glob(pattern)}
    for part in parts_of(run):
        if part != run:
            found.add(part)
            continue
        found |= {run / name for name in read_status(part)["dictionaries"]}
    return sorted(path for path in found if path.exists() or path.is_symlink())


def _files(place: Path) -> list[Path]:
    if place.is_symlink() or not place.is_dir():
        return [place]
    return [path for path in place.rglob("*") if path.is_symlink() or path.is_file()]
