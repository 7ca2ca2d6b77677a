"""Run folders: find, list, show; the parts of an array are one run."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from re import findall
from shlex import quote
from typing import TYPE_CHECKING, Any

from lensbench import io
from lensbench.app.workflows import run_parts
from lensbench.app.workflows.detached import JOB_FILE, is_running
from lensbench.app.workflows.finding import TWIN as TWIN
from lensbench.app.workflows.finding import find, once
from lensbench.app.workflows.run_parts import INCOMPLETE
from lensbench.app.workflows.run_parts import LIVE as LIVE
from lensbench.errors import DamagedDataError, MissingDataError, UnknownNameError
from lensbench.process import has_ended
from lensbench.saes.runs import (
    RESULT_FOLDER,
    STATUS_FILE,
    SWEEP_FILE,
    SAERun,
    open_runs,
    read_status,
)

if TYPE_CHECKING:
    from lensbench.saes.evaluation.result import SAEEvaluation

EVALUATION = "evaluation"
STATES = (*LIVE, "finished", INCOMPLETE, "stopped", "failed", "lost", "damaged")
LAST = ("step", "tokens", "loss", "fvu", "l0", "dead_fraction", "seconds")
"""Of a dictionary's curves, the last values that a listing shows."""
REQUEST_FILE = "request.yaml"
"""What a page asked for, in the folder of a run that it started."""
LOST = 600.0
"""Seconds without a heartbeat after which a run is called lost."""


def parts_of(run: Path) -> list[Path]:
    """The run folder itself, or its parts where it was trained as an array.

    Raises:
        MissingDataError: neither.
    """
    if (run / STATUS_FILE).is_file():
        return [run]
    parts = [path.parent for path in run.glob(f"part-*/{STATUS_FILE}")]
    parts.sort(key=lambda part: ([int(n) for n in findall(r"\d+", part.name)], part.name))
    if not parts:
        if (run.parent / STATUS_FILE).is_file() and run.is_dir():
            raise MissingDataError(
                f"{run} is one dictionary of the run {run.parent}, not a run; pass {run.parent}"
            )
        inside = (
            [str(p.parent) for p in sorted(run.glob(f"*/{STATUS_FILE}"))] if run.is_dir() else []
        )
        hint = f"it holds the runs {', '.join(inside)}" if inside else "see `lensbench runs ls DIR`"
        if (run / SWEEP_FILE).is_file():
            hint = f"it was killed before it began; begin with {resume_command(run)}"
        raise MissingDataError(f"no run in {run} (no {STATUS_FILE}); {hint}")
    return parts


def sound_parts(run: Path) -> list[Path]:
    """Those of :func:`parts_of` whose state can be read; a run alone is not left out in silence."""
    parts = parts_of(run)
    return parts if parts == [run] else [p for p in parts if part_row(p)["state"] != "damaged"]


def all_runs(run: Path) -> list[SAERun]:
    """Every finished dictionary of a run and of its parts.

    Raises:
        MissingDataError: none is finished.
    """
    parts = sound_parts(run)
    if parts == [run]:
        return open_runs(run)
    found = [
        one for part in parts if any(part.glob(f"*/{RESULT_FOLDER}/result.json"))
        for one in open_runs(part)
    ]  # fmt: skip
    if not found:
        raise MissingDataError(
            f"no dictionary in the {len(parts)} parts of {run} is finished; see `lensbench runs "
            f"show {run}`"
        )
    return found


def sweep_file(run: Path) -> Path | None:
    """What a run was asked for: its sweep, of an array the whole one; None where nothing is left.

    A run that a page has just started has no sweep file yet, only what was asked for.
    """
    places = [run / run_parts.ARRAY_FILE]
    places += [part / name for part in parts_of(run) for name in (SWEEP_FILE, REQUEST_FILE)]
    return next((place for place in places if place.is_file()), None)


def evaluation_of(run: Path) -> "SAEEvaluation | None":
    """The saved evaluation of a run, or None where it was not evaluated.

    Raises:
        DamagedDataError: what lies there is something else.
    """
    from lensbench.saes.evaluation.kept import find_evaluation

    return find_evaluation(run)


ORDERS = ("started", "run", "state", "tokens", "dictionaries")
"""What a list of runs can be sorted by: names upwards, times and counts downwards."""


def list_runs(root: Path, *, states: Sequence[str] = (), sort: str = "started") -> dict[str, Any]:
    """Runs under ``root``, newest first, damaged ones last.

    Controls of them (in a folder ``twin``) are no rows: ``twins`` names them. ``states`` keeps
    those in one of these states, ``sort`` is one of :data:`ORDERS`.

    Raises:
        MissingDataError: no such folder.
        UnknownNameError: no such state or order.
    """
    for kind, given, known in (("state", states, STATES), ("order", [sort], ORDERS)):
        for name in given:
            if name not in known:
                raise UnknownNameError(kind, name, known=known)
    if not root.is_dir():
        raise MissingDataError(f"no folder {root}; runs are written where --out says")
    found = find(root)
    rows = [_row_or_damage(path) for path in found.runs]
    rows = [row for row in rows if not states or row["state"] in states]
    rows.sort(key=lambda row: row[sort], reverse=sort not in ("run", "state"))
    return {"root": str(root), "runs": rows, "twins": [str(path) for path in found.twins]}


def told_twins(root: Path) -> str:
    """The runs that a list leaves out, and why; empty where there are none."""
    names = [path.relative_to(root).as_posix() for path in find(root).twins]
    if not names:
        return ""
    return (f"Left out: {', '.join(names)}, trained on the model's twin with random weights, as a "
            "control of the run beside it.")  # fmt: skip


def _row_or_damage(run: Path) -> dict[str, Any]:
    """One run that cannot be read does not hide the others."""
    return _of_parts(run, part_row)


def part_row(part: Path) -> dict[str, Any]:
    """A run or a part of an array as a row, whether or not it can be read."""
    try:
        return _row(part)
    except DamagedDataError:
        numbers = dict.fromkeys(("dictionaries", "step", "steps", "tokens"), 0)
        return {"run": str(part), "state": "damaged", **numbers, "started": ""}


def resume_command(run: Path) -> str:
    """The command that goes on with a run of one process."""
    return f"lensbench train sae --resume {quote(str(run))}"


def state_of(run: Path, status: dict[str, Any]) -> str:
    """The state, or ``lost`` where a run says it goes on but has fallen silent.

    At once, where its process was of this machine and has ended. Else silent is a heartbeat older
    than ten minutes; or than one, where its process is not to be found; or than five seconds, where
    we started that process ourselves and know that it has ended.
    """
    if status["state"] not in LIVE:
        return str(status["state"])
    told = datetime.fromisoformat(str(status["heartbeat"]))
    age = (datetime.now(UTC) - told).total_seconds()
    if (run / JOB_FILE).is_file():
        job: dict[str, Any] = io.read_json(run / JOB_FILE)
        if not is_running(job) and age > LOST / 120:
            return "stopped" if job.get("stopping") else "lost"
        if is_running(job) and status["state"] == "queued":
            return "queued"  # a first import may take long
    if has_ended(status):
        last = read_status(run)  # it may have written its last word meanwhile
        return "lost" if last["state"] in LIVE and has_ended(last) else str(last["state"])
    here = Path(f"/proc/{int(status['pid'])}").exists()
    return "lost" if age > LOST or (age > LOST / 10 and not here) else str(status["state"])


def run_row(run: Path) -> dict[str, Any]:
    """State, progress and message of a run; the parts of an array count as one.

    Raises:
        MissingDataError: no run there.
        DamagedDataError: a run alone whose state cannot be read.
    """
    parts = parts_of(run)
    alone = parts == [run]
    row = _of_parts(run, _row if alone else part_row)
    messages = [str(told) for part in sound_parts(run) if (told := _status(part).get("message"))]
    return {**row, "message": "; ".join(dict.fromkeys(messages))}


def _of_parts(run: Path, row_of: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    parts = parts_of(run)
    rows = [row_of(part) for part in parts]
    if parts == [run]:
        return {**rows[0], "parts": 1, "parts_finished": int(rows[0]["state"] == "finished")}
    return run_parts.whole(run, rows, len(run_parts.missing(run, parts)))


def _status(run: Path) -> dict[str, Any]:
    """``status.json``, read again only when it has changed."""
    return once(run / STATUS_FILE, "status", lambda path: read_status(path.parent))


def _row(run: Path) -> dict[str, Any]:
    status = _status(run)
    return {
        "run": str(run),
        "state": state_of(run, status),
        "dictionaries": len(status["dictionaries"]),
        "step": status["step"],
        "steps": status["steps"],
        "tokens": status["tokens"],
        "started": _first_start(run, str(status["started"])),
    }


def _first_start(run: Path, told: str) -> str:
    """When a run was started first: its status tells the last time that it was gone on with.

    The sweep file is written once. A copy of the folder may be younger than the status.
    """
    path = run / SWEEP_FILE
    if not path.is_file():
        return told
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return min(told, written)
