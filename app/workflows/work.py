"""What the process of a job does: the same calls as the command line, told to a folder.

Started by ``jobs`` as ``python -m lensbench.app.workflows.work FOLDER``. SIGTERM asks it to stop:
what is finished stays on disk, and going on finds it there.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from threading import Event, Lock, Thread, current_thread, main_thread
from typing import Any

from lensbench import io
from lensbench.app.workflows import jobs
from lensbench.app.workflows.detached import now
from lensbench.errors import LensbenchError, StoppedError
from lensbench.progress import followed

BEAT = 1.0
"""Seconds between two writings of ``status.json``."""
SAID = 5.0
"""Seconds between two lines of progress in the log."""
COUNTS = (("done", "total", ""), ("step", "steps", "steps"), ("tokens", "total_tokens", "tokens"))
"""Names under which work tells how far it is."""
_asked = Event()
"""Set once the job was asked to stop."""


class Report:
    """Keeps ``status.json`` true while the work goes on, by a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._path, self._began = folder / jobs.STATUS_FILE, time.monotonic()
        self._told = io.read_json(self._path) | {"state": "running", "pid": os.getpid()}
        self._spent, self._lock, self._over = float(self._told["seconds"]), Lock(), Event()
        self._said = 0.0
        self._write()
        self._thread = Thread(target=self._beat, daemon=True)
        self._thread.start()

    def __call__(self, *rows: Mapping[str, Any] | str, **facts: Any) -> None:
        """Take progress as the command line's own lines do: words, and counts by name.

        Raises:
            KeyboardInterrupt: asked to stop where Python drops what is raised (a finaliser).
        """
        if _asked.is_set() and current_thread() is main_thread():
            raise KeyboardInterrupt
        for row in rows:
            facts = facts if isinstance(row, str) else {**row, **facts}
        words = " ".join(row for row in rows if isinstance(row, str))
        change: dict[str, Any] = {"message": words} if words else {}
        for done, total, unit in COUNTS:
            if done in facts:
                change |= {"done": int(facts[done]), "total": int(facts.get(total) or 0)}
                change["unit"] = str(facts.get("unit", unit))
        with self._lock:
            self._told |= change
        if words or time.monotonic() - self._said > SAID:
            self._said = time.monotonic()
            done, total, unit = (self._told[key] for key in ("done", "total", "unit"))
            count = (f"{done:,}" + (f" of {total:,}" if total else ""), unit) if done else ()
            print(" ".join(part for part in (words, *count) if part), flush=True)  # noqa: T201 - log.txt

    def count(self, done: int, total: int | None, unit: str) -> None:
        """Take how far a bar of the work is."""
        self(done=done, total=total, unit=f"{unit}s")

    def end(self, state: str, message: str = "", result: Mapping[str, Any] | None = None) -> None:
        """Say the last word."""
        self._over.set()
        self._thread.join()
        self._told |= {"state": state, "message": message, "result": dict(result or {})}
        print(f"{now()} {state} {message}".rstrip(), flush=True)  # noqa: T201 - log.txt
        self._write()  # last: whoever sees that it has ended finds the whole log

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._write()

    def _write(self) -> None:
        with self._lock:
            spent = self._spent + time.monotonic() - self._began
            self._told |= {"heartbeat": now(), "seconds": round(spent, 1)}
            io.write_json(self._path, self._told)


def main(folder: Path) -> int:
    """Do what ``folder/request.json`` asks for; the exit code is the command line's."""
    signal.signal(signal.SIGTERM, _interrupt)
    asked = io.read_json(folder / jobs.REQUEST_FILE)
    report = Report(folder)
    print(f"{now()} {jobs.command_of(asked['kind'], asked['settings'])}", flush=True)  # noqa: T201
    try:
        with followed(report.count):
            result = WORK[asked["kind"]](dict(asked["settings"]), report)
    except (KeyboardInterrupt, StoppedError):
        report.end("stopped", f"going on {jobs.KINDS[asked['kind']].again.replace('goes on ', '')}")
        return StoppedError.exit_code
    except LensbenchError as error:
        report.end("failed", str(error))
        return error.exit_code
    except Exception as error:  # the boundary: what nobody raised on purpose is a bug
        traceback.print_exc()
        report.end("failed", f"this is a bug in lensbench: {type(error).__name__}: {error}")
        return 1
    report.end("finished", result=result)
    return 0


def _interrupt(*_: Any) -> None:
    _asked.set()
    raise KeyboardInterrupt


Work = Callable[[dict[str, Any], Report], dict[str, Any]]
"""What a kind of job does: settings as the command takes them, to the numbers a page shows."""


def _capture(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.capturing import capture_text

    facts = capture_text(settings.pop("model"), settings.pop("text"), out=Path(settings.pop("out")),
                         progress=report, **settings)  # fmt: skip
    return _numbers(facts, "tokens", "documents", "shards", "bytes")


def _evaluate(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.evaluation import evaluate_run

    facts = evaluate_run(Path(settings.pop("run")), Path(settings.pop("store")),
                         settings.pop("model"), progress=report, **settings)  # fmt: skip
    return {"dictionaries": len(facts["dictionaries"])}


def _encode(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.dictionaries import encode_dictionary

    facts = encode_dictionary(settings.pop("dictionary"), Path(settings.pop("store")),
                              progress=report, **settings)  # fmt: skip
    return _numbers(facts, "tokens", "active", "l0", "bytes")


def _share(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.exporting import export_dictionaries

    facts = export_dictionaries(settings["name"], Path(settings["out"]), settings["format"],
                                progress=report)  # fmt: skip
    return {"dictionaries": len(facts["dictionaries"])}


def _tune(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.tuned import tune

    facts = tune(Path(settings.pop("store")), settings.pop("model", None),
                 Path(settings.pop("out")), settings.pop("set", {}), progress=report,
                 **settings)  # fmt: skip
    return {"layers": len(facts["layers"]), **facts["summary"]}


def _hd(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.hyper import HDAsk, facts

    out = Path(settings.pop("out"))
    return facts(HDAsk(**settings), out, report)["summary"]


def _verify(settings: dict[str, Any], report: Report) -> dict[str, Any]:
    from lensbench.app.workflows.stores import verify_store

    facts = verify_store(Path(settings["store"]), progress=report)
    return _numbers(facts, "files", "bytes")


def _numbers(facts: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: facts[name] for name in names}


def _of(module: str, name: str) -> Work:
    """The function ``name(settings, report)`` of a workflow, imported when it is called."""

    def call(settings: dict[str, Any], report: Report) -> dict[str, Any]:
        return getattr(import_module(f"{__package__}.{module}"), name)(settings, report)

    return call


def _silent(module: str, name: str) -> Work:
    """The same of a function that is followed by its bars alone: ``name(settings)``."""

    def call(settings: dict[str, Any], _: Report) -> dict[str, Any]:
        return getattr(import_module(f"{__package__}.{module}"), name)(settings)

    return call


WORK: dict[str, Work] = {
    "capture": _capture,
    "evaluate": _evaluate,
    "encode": _encode,
    "share": _share,
    "tune": _tune,
    "language": _of("languages", "fit"),
    "future": _of("lens_future", "fit"),
    "asked": _of("lens_ask", "fit"),
    "probes": _of("probe_page", "fit"),
    "hd": _hd,
    "verify": _verify,
    "patch": _silent("patch_jobs", "sweep_job"),
    "place": _silent("patch_jobs", "place_job"),
    "attribute": _of("patch_jobs", "check_job"),
    "steer": _silent("steer_jobs", "doses_job"),
    "doses": _silent("dose_jobs", "job"),
    "study": _of("expert_jobs", "study"),
    "rates": _of("expert_jobs", "rates"),
    "live": _of("accelerating", "live_job"),
    "own": _of("accelerating", "own_job"),
    "geometry": _of("shapes", "job"),
}
"""The function of every kind of job."""

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
