"""Run folders: find, list, show; the parts of an array are one run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench import io
from lensbench.app.workflows.detached import JOB_FILE, is_running
from lensbench.app.workflows.finding import TWIN as TWIN
from lensbench.app.workflows.finding import find, read_json
from lensbench.errors import DamagedDataError, MissingDataError, UnknownNameError
from lensbench.process import has_ended
from lensbench.saes.runs import STATUS_FILE, SWEEP_FILE, WAIT, SAERun, open_runs, read_status

if TYPE_CHECKING:
    from lensbench.saes.evaluation.result import SAEEvaluation

EVALUATION = "evaluation"
LIVE = ("queued", "starting", "running")
"""States of a run that goes on."""
STATES = (*LIVE, "finished", "stopped", "failed", "lost", "damaged")
LAST = ("step", "tokens", "loss", "fvu", "l0", "dead_fraction", "seconds")
"""Of a dictionary's curves, the last values that a listing shows."""
LOST = 600.0
"""Seconds without a heartbeat after which a run is called lost."""


def parts_of(run: Path) -> list[Path]:
    """The run folder itself, or its parts where it was trained as an array.

    Raises:
        MissingDataError: neither.
    """
    if (run / STATUS_FILE).is_file():
        return [run]
    parts = sorted(path.parent for path in run.glob(f"part-*/{STATUS_FILE}"))
    if not parts:
        if (run.parent / STATUS_FILE).is_file() and run.is_dir():
            raise MissingDataError(
                f"{run} is one dictionary of the run {run.parent}, not a run; pass {run.parent}"
            )
        inside = (
            [str(p.parent) for p in sorted(run.glob(f"*/{STATUS_FILE}"))] if run.is_dir() else []
        )
        hint = f"it holds the runs {', '.join(inside)}" if inside else "see `lensbench runs ls DIR`"
        raise MissingDataError(f"no run in {run} (no {STATUS_FILE}); {hint}")
    return parts


def all_runs(run: Path) -> list[SAERun]:
    """Every finished dictionary of a run and of its parts."""
    return [one for part in parts_of(run) for one in open_runs(part)]


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
    """Runs under ``root``, newest first, damaged ones last; controls (``twin``) are left out.

    ``states`` keeps those in one of these states, ``sort`` is one of :data:`ORDERS`.

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
    rows = [_row_or_damage(path) for path in find(root).runs]
    rows = [row for row in rows if not states or row["state"] in states]
    rows.sort(key=lambda row: row[sort], reverse=sort not in ("run", "state"))
    return {"root": str(root), "runs": rows}


def _row_or_damage(run: Path) -> dict[str, Any]:
    """One run that cannot be read does not hide the others."""
    try:
        return _row(run) if (run / STATUS_FILE).is_file() else _of_parts(run)
    except DamagedDataError:
        numbers = dict.fromkeys(("dictionaries", "step", "steps", "tokens"), 0)
        return {"run": str(run), "state": "damaged", **numbers, "started": ""}


def show_run(run: Path) -> dict[str, Any]:
    """State, configuration and last numbers of a run, and its evaluation where there is one."""
    from lensbench.config import load_yaml
    from lensbench.saes.runs import last_window, note_on_means, read_history

    rows: list[dict[str, Any]] = []
    windows: list[int] = []
    for part in parts_of(run):
        status = read_status(part)
        for name, state in status["dictionaries"].items():
            lines = read_history(part / name)
            last = lines[-1] if lines else {}
            windows.append(last_window(line["step"] for line in lines))
            kept = {k: last[k] for k in LAST if k in last}
            rows.append({"name": name, "state": state, **kept})
    first = parts_of(run)[0]
    evaluation = evaluation_of(run)
    facts: dict[str, Any] = {
        "run": str(run),
        "parts": len(parts_of(run)),
        **_row(first),
        WAIT: max(float(read_status(part).get(WAIT, 0.0)) for part in parts_of(run)),
        "evaluated": evaluation is not None,
        "note": note_on_means(windows),
        "dictionaries": rows,
        "sweep": load_yaml(first / SWEEP_FILE),
    }
    if evaluation is not None:
        facts["evaluation"] = evaluation.summary()
        facts["controls"] = str(evaluation.controls)
    return facts


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
    """
    messages = [str(told) for p in parts_of(run) if (told := _status(p)["message"])]
    return {**_of_parts(run), "message": "; ".join(messages)}


def _of_parts(run: Path) -> dict[str, Any]:
    parts = [_row(part) for part in parts_of(run)]
    first = next((p for p in parts if p["state"] in LIVE), parts[0])
    numbers = ("dictionaries", "step", "steps")
    return {**first, "run": str(run), **{n: sum(int(p[n]) for p in parts) for n in numbers}}


def _status(run: Path) -> dict[str, Any]:
    """``status.json``, read again only when it has changed."""
    return read_json(run / STATUS_FILE)


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
