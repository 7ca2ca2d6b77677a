"""One run in full: its state, what it was asked for, its last numbers, and how to go on with it."""

from pathlib import Path
from re import findall
from shlex import quote
from typing import Any

from lensbench.app.workflows.run_parts import NOT_STARTED, how_to_finish, missing, part_name
from lensbench.app.workflows.runs import (
    LAST,
    LIVE,
    evaluation_of,
    part_row,
    parts_of,
    resume_command,
    run_row,
    sound_parts,
    sweep_file,
)
from lensbench.config import load_yaml
from lensbench.saes.runs import WAIT, last_window, note_on_means, read_history, read_status

GOES_ON = ("stopped", "failed", "lost")
"""States from which a run can be gone on with."""


def show_run(run: Path) -> dict[str, Any]:
    """State, configuration and last numbers of a run, and its evaluation where there is one.

    Of an array also each part, what its state is, and how to train what is left.
    """
    rows: list[dict[str, Any]] = []
    windows: list[int] = []
    sound = sound_parts(run)
    for part in sound:
        status, whole = read_status(part), part_row(part)["state"]
        for name, told in status["dictionaries"].items():
            state = told if whole in LIVE or told not in LIVE else whole  # nobody lived to say so
            lines = read_history(part / name)
            last = lines[-1] if lines else {}
            windows.append(last_window(line["step"] for line in lines))
            kept = {k: last[k] for k in LAST if k in last}
            rows.append({"name": name, "state": state, **kept})
    evaluation = evaluation_of(run)
    facts: dict[str, Any] = {
        **run_row(run),
        WAIT: max((float(read_status(part).get(WAIT, 0.0)) for part in sound), default=0.0),
        "evaluated": evaluation is not None,
        "note": note_on_means(windows),
        "dictionaries": rows,
        "sweep": {} if (asked := sweep_file(run)) is None else load_yaml(asked),
    }
    if parts_of(run) != [run]:
        facts |= array_of(run)
    elif facts["state"] in GOES_ON:
        facts["to_finish"] = [how_to_go_on(run)]
    if evaluation is not None:
        facts["evaluation"] = evaluation.summary()
        facts["controls"] = str(evaluation.controls)
    return facts


def array_of(run: Path) -> dict[str, Any]:
    """Each part of an array with its state, and the commands that train what is left of it."""
    rows, absent = (
        [part_row(part) for part in parts_of(run)],
        missing(run, parts_of(run)),
    )
    keys = ("state", "dictionaries", "step", "steps", "tokens")
    told = [{"part": Path(str(row["run"])).name, **{k: row[k] for k in keys}} for row in rows]
    none = dict.fromkeys(keys[1:], 0)
    told += [{"part": part_name(part), "state": NOT_STARTED, **none} for part in absent]
    told.sort(key=lambda row: [int(n) for n in findall(r"\d+", str(row["part"]))])
    return {"each_part": told, "to_finish": how_to_finish(run, rows, absent)}


def how_to_go_on(run: Path) -> str:
    """The command that goes on with a run; of an array, with the first part that is left."""
    if parts_of(run) == [run]:
        return resume_command(run)
    left = array_of(run)["to_finish"]
    return left[0] if left else f"lensbench runs show {quote(str(run))}"
