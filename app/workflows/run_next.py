"""What to say of a run that was asked to go on: that it is finished, or what it lacks to do so."""

from pathlib import Path
from shlex import quote
from typing import Any

from lensbench import io
from lensbench.app.workflows.overview import is_evaluated
from lensbench.app.workflows.run_show import array_of
from lensbench.app.workflows.runs import REQUEST_FILE, parts_of, run_row
from lensbench.errors import DamagedDataError, MissingDataError
from lensbench.saes.configs import SweepConfig
from lensbench.saes.runs import RESULT_FOLDER, STATUS_FILE, SWEEP_FILE, read_status


def finished(run: Path) -> dict[str, Any] | None:
    """What a finished run has and what can be done with it; None for one that is not finished.

    Raises:
        DamagedDataError: it says that it is finished, and none of its dictionaries is there.
    """
    if not (run / STATUS_FILE).is_file() and not any(run.glob(f"part-*/{STATUS_FILE}")):
        return None
    row = run_row(run)
    if row["state"] != "finished":
        return None
    parts = parts_of(run)
    names = [(part, name) for part in parts for name in read_status(part)["dictionaries"]]
    kept = [name for part, name in names if (part / name / RESULT_FOLDER / "result.json").is_file()]
    lost = [name for _, name in names if name not in kept]
    if not kept:
        raise DamagedDataError(
            f"{run} says that it is finished, but none of its {len(names)} dictionaries has a "
            f"{RESULT_FOLDER}/ folder (any more); copy the run again, or train it anew: lensbench "
            f"train sae --config {quote(str(parts[0] / SWEEP_FILE))} --out DIR"
        )
    told = f"{run} is finished: {len(kept)} dictionaries, {row['step']:,} steps"
    told += f" in {len(parts)} parts" if len(parts) > 1 else ""
    told += f", {row['tokens']:,} tokens. Nothing is left to train"
    told += f"; results that are gone: {', '.join(lost)}" if lost else ""
    return {"finished": True, "message": told, "next": next_commands(run, kept)}


def next_commands(run: Path, names: list[str]) -> dict[str, str]:
    """What to do with a finished run, and the command of each."""
    where, first = quote(str(run)), quote(str(run / names[0]))
    told = {"see it": f"lensbench runs show {where}"}
    if is_evaluated(run):
        told["a page of what it reached"] = f"lensbench report {where}"
    else:
        store, model = _origin(parts_of(run)[0])
        told["measure it"] = f"lensbench eval sae {where} --store {store} --model {model}"
    told["share one"] = f"lensbench runs export {first} --out DIR"
    told["train longer or otherwise"] = (
        f"lensbench train sae --config {quote(str(parts_of(run)[0] / SWEEP_FILE))} --tokens N "
        "--out ANOTHER"
    )
    return told


def _origin(part: Path) -> tuple[str, str]:
    """Store and model that a run names, ready for a shell; DIR and M where it names none."""
    sweep, about = part / SWEEP_FILE, part / "provenance.json"
    store = SweepConfig.from_yaml(sweep).source.store if sweep.is_file() else None
    model = (io.read_json(about).get("model") or {}) if about.is_file() else {}
    name = model.get("source") or model.get("name")
    return quote(str(store)) if store else "DIR", quote(str(name)) if name else "M"


def refuse_without_sweep(run: Path) -> None:
    """Say why a folder cannot be gone on with, and what can.

    Raises:
        MissingDataError: it holds no sweep; it is an array, never began, or is no run.
    """
    if (run / SWEEP_FILE).is_file():
        return
    if any(run.glob(f"part-*/{STATUS_FILE}")):
        parts = ", ".join(part.name for part in parts_of(run))
        left = array_of(run)["to_finish"]
        raise MissingDataError(
            f"{run} was trained as an array, and a part is gone on with at a time; its parts are "
            f"{parts}. "
            + ("What is left:" + "".join(f"\n  {one}" for one in left) if left else "They go on.")
        )
    if (run / REQUEST_FILE).is_file():
        asked = quote(str(run / REQUEST_FILE))
        raise MissingDataError(
            f"{run} never began; start it with: lensbench train sae --config {asked} --out "
            f"{quote(str(run))}"
        )
    parts_of(run)  # no run at all: says where runs are
    raise MissingDataError(
        f"{run} has lost its {SWEEP_FILE}, which says what it was to train; copy it back, or train "
        "anew into another folder"
    )
