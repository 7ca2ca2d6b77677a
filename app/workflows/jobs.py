"""Long work that a page starts: a process of its own, with a folder below ``jobs/`` of the root.

``request.json`` holds what was asked for, ``status.json`` where it stands (``queued`` before the
process exists), ``job.json`` the process, ``log.txt`` what it said. Whatever page or server looks
later finds it there. What the process does is in ``work``; training has folders of its own
(``launching``), with the same life.
"""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lensbench import io
from lensbench.app.workflows import detached
from lensbench.app.workflows.runs import LIVE
from lensbench.errors import ConfigError, MismatchError, MissingDataError, UnknownNameError

REQUEST_FILE, STATUS_FILE = "request.json", "status.json"
SILENT = 5.0
"""Seconds without a heartbeat after which a job whose process is gone is called lost."""
ENDING = 10.0
"""Seconds that a process may take to end after its job did."""
OWN = (REQUEST_FILE, STATUS_FILE, detached.JOB_FILE, detached.LOG_FILE, detached.TURN_FILE)


@dataclass(frozen=True)
class Kind:
    """A sort of work: what it is called, its command, and what going on with it means."""

    label: str
    words: tuple[str, ...]
    first: str
    """The setting that the command takes without a flag; empty: none."""
    again: str


KINDS = {
    "capture": Kind("Capture", ("capture",), "", "goes on after the last finished shard"),
    "evaluate": Kind("Evaluate", ("eval", "sae"), "run", "begins again"),
    "encode": Kind("Encode", ("encode",), "dictionary", "goes on after the last finished shard"),
    "share": Kind("Share", ("runs", "export"), "name", "begins again"),
    "tune": Kind("Tuned lens", ("lens", "tune"), "", "goes on from the last checkpoint"),
    "language": Kind("Latent language", ("lens", "language"), "", "begins again"),
    "future": Kind("Future lens", ("lens", "future"), "", "begins again"),
    "asked": Kind("Ask a state", ("lens", "ask"), "", "begins again"),
    "probes": Kind("Linear probes", ("probe", "linear"), "", "begins again"),
    "hd": Kind("Hyperdimensional study", ("probe", "hd"), "", "begins again"),
    "verify": Kind("Verify", ("store", "verify"), "store", "begins again"),
    "patch": Kind("Sweep of patches", ("patch",), "task", "begins again"),
    "place": Kind("Place on held-out pairs", ("patch",), "task", "begins again"),
    "attribute": Kind("Verified attribution", ("attribute",), "task", "begins again"),
    "steer": Kind("Dose curve", ("steer",), "task", "begins again"),
    "doses": Kind("Doses on a prompt", ("doses",), "task", "begins again"),
    "study": Kind("Expert study", ("experts", "suppress"), "", "begins again"),
    "rates": Kind("Expert rates", ("experts", "rates"), "", "begins again"),
    "live": Kind("Live measurement", ("accelerate",), "", "begins again"),
    "own": Kind("Model's own text", ("accelerate",), "", "goes on after the last finished shard"),
    "geometry": Kind("Geometry", ("probe", "geometry"), "", "begins again"),
}
"""All sorts of work, by the name that a request gives them."""


@dataclass(frozen=True)
class Job:
    """Where one job stands."""

    name: str
    kind: str
    target: str
    settings: Mapping[str, Any]
    state: str
    done: int
    total: int
    """0 where nobody knows how much there is to do."""
    unit: str
    message: str
    started: str
    seconds: float
    result: Mapping[str, Any]
    stopping: bool = False
    """Whether it was asked to stop."""
    address: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The page that started it, as ``page``, and what else its address said."""

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return self.state in LIVE

    @property
    def title(self) -> str:
        """What it does, in a line."""
        return f"{KINDS[self.kind].label}: {self.target}"

    @property
    def command(self) -> str:
        """The same on the command line."""
        return command_of(self.kind, self.settings)


def start(
    root: Path, kind: str, target: str, settings: Mapping[str, Any], *, expects: int = 0,
    address: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Start work of a kind on ``target`` (what a reader calls it); gives the job's name.

    ``expects`` is how much there is to do, where the work itself does not know; ``address`` is the
    page that shows it.

    Raises:
        UnknownNameError: no such kind.
        MismatchError: the same is going on already, from this tab or another one.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of job", kind, known=tuple(KINDS))
    name = name_of(kind, target)
    folder = root / detached.JOBS / name
    with detached.turn(folder):
        if (folder / STATUS_FILE).is_file():
            _refuse_live(look(root, name))
        request = {"kind": kind, "target": target, "settings": dict(settings),
                   "expects": expects, "started": detached.now(),
                   "address": dict(address or {})}  # fmt: skip
        io.write_json(folder / REQUEST_FILE, request)
        _launch(folder, fresh=True)
    return name


def name_of(kind: str, target: str) -> str:
    """The name of the job of a kind on ``target``."""
    return f"{kind}-{quote(target, safe='')}"


def go_on(root: Path, name: str) -> None:
    """Start the process of a job anew, with what was asked for.

    Raises:
        MismatchError: it is still running.
        ConfigError: it is finished.
    """
    folder = _folder(root, name)
    with detached.turn(folder):
        job = look(root, name)
        if job.state == "finished":
            raise ConfigError(f"{job.title} is finished; there is nothing to go on with")
        _refuse_live(job)
        if detached.still_there(folder, ENDING):
            raise MismatchError(f"{job.title} has not ended yet; try again in a moment")
        _launch(folder, fresh=False)


def stop(root: Path, name: str) -> None:
    """Ask a job to save what it has and end.

    Raises:
        MismatchError: it has ended.
    """
    job = look(root, name)
    if not job.live or not detached.stop(_folder(root, name)):
        raise MismatchError(f"{job.title} has ended already")


def remove(root: Path, name: str) -> None:
    """Forget a job that has ended: its folder goes, what it made stays.

    Raises:
        MismatchError: it is still running.
    """
    folder = _folder(root, name)
    _refuse_live(look(root, name))
    for file in OWN:
        (folder / file).unlink(missing_ok=True)
    folder.rmdir()


def look(root: Path, name: str) -> Job:
    """Where a job stands now.

    Raises:
        MissingDataError: no such job (any more).
    """
    folder = _folder(root, name)
    asked, told = io.read_json(folder / REQUEST_FILE), io.read_json(folder / STATUS_FILE)
    kept = {key: told[key] for key in ("done", "unit", "message", "seconds", "result")}
    return Job(name=name, kind=asked["kind"], target=asked["target"], settings=asked["settings"],
               started=asked["started"], total=told["total"] or asked["expects"],
               state=_state(folder, told), address=asked.get("address", {}),
               stopping=bool(detached.job_of(folder).get("stopping")), **kept)  # fmt: skip


def all_jobs(root: Path, kind: str = "") -> list[Job]:
    """Every job below ``root`` (or those of a kind), newest first."""
    names = [path.parent.name for path in (root / detached.JOBS).glob(f"*/{STATUS_FILE}")]
    found: list[Job] = []
    for name in names:
        with suppress(MissingDataError):  # removed from another tab meanwhile
            found.append(look(root, name))
    found.sort(key=lambda job: job.started, reverse=True)
    return [job for job in found if kind in ("", job.kind)]


def log_of(root: Path, name: str) -> str:
    """The last lines of what a job has said."""
    return detached.log_tail(_folder(root, name))


def command_of(kind: str, settings: Mapping[str, Any]) -> str:
    """Settings as the command that does the same."""
    known = KINDS[kind]
    words = ["lensbench", *known.words]
    words += [str(settings[known.first])] if settings.get(known.first) else []
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        if key == known.first or value is None or value is False or value in ("", [], {}):
            continue
        if isinstance(value, Mapping):
            words += [w for k, v in value.items() for w in (flag, f"{k}={v}")]
        elif isinstance(value, list):
            words += [w for v in value for w in (flag, str(v))]
        else:
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def queued(*, message: str = "", seconds: float = 0.0) -> dict[str, Any]:
    """``status.json`` of a job that nobody has begun."""
    return {"state": "queued", "done": 0, "total": 0, "unit": "", "message": message, "pid": 0,
            "seconds": seconds, "heartbeat": detached.now(), "result": {}}  # fmt: skip


def _launch(folder: Path, *, fresh: bool) -> None:
    spent = 0.0 if fresh else float(io.read_json(folder / STATUS_FILE)["seconds"])
    io.write_json(folder / STATUS_FILE, queued(seconds=spent))
    detached.start([str(folder)], folder, module="lensbench.app.workflows.work")


def _folder(root: Path, name: str) -> Path:
    folder = root / detached.JOBS / name
    if Path(name).name != name or not (folder / STATUS_FILE).is_file():
        raise MissingDataError(f"there is no job {name!r} (any more); it may have been removed")
    return folder


def _refuse_live(job: Job) -> None:
    if job.live:
        raise MismatchError(
            f"{job.title} is going on already (started {job.started.replace('T', ' ')[:16]} UTC, "
            "perhaps from another tab); wait for it, or stop it first"
        )


def _state(folder: Path, told: Mapping[str, Any]) -> str:
    """The state, or ``lost`` where a job says that it goes on and its process is gone."""
    job = detached.job_of(folder)
    age = (datetime.now(UTC) - datetime.fromisoformat(str(told["heartbeat"]))).total_seconds()
    if told["state"] not in LIVE or detached.is_running(job) or age < SILENT:
        return str(told["state"])
    return "stopped" if job.get("stopping") else "lost"
