"""A run that was trained as an array (``--array i/n``): its parts are one run, counted together.

A part that nobody has started leaves no folder, so that how many there are is read off the names
``part-i-of-n`` of the others, and off the whole sweep that every part writes beside itself.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from lensbench.app.workflows.finding import once

PART = re.compile(r"part-(\d+)-of-(\d+)")
ARRAY_FILE = "array.yaml"
"""The whole sweep of an array; not ``sweep.yaml``, by which a run that can be resumed is known."""
LIVE = ("queued", "starting", "running")
"""States of a run that goes on."""
INCOMPLETE, NOT_STARTED = "incomplete", "not started"
"""Of an array of which every part that was started is finished, and others were not started."""
WORST = ("failed", "damaged", "lost", "stopped")
"""Of parts that have ended, the first of these speaks for all."""


def part_name(array: str) -> str:
    """The folder of part ``i/n``."""
    return f"part-{array.replace('/', '-of-')}"


def missing(run: Path, parts: Sequence[Path]) -> list[str]:
    """Parts of an array that have no folder yet, as ``--array`` names them: ``2/4``.

    A sweep of fewer dictionaries than parts leaves the last parts without any: none is missing.
    """
    found = [m for part in parts if part != run and (m := PART.fullmatch(part.name))]
    there = {(int(m[1]), int(m[2])) for m in found}
    held = _dictionaries(run)
    first = min((i for i, _ in there), default=1)  # older folders count from 0
    return [
        f"{i}/{n}"
        for n in sorted({n for _, n in there})
        for i in range(min(first, 1), min(first, 1) + (n if held is None else min(n, held)))
        if (i, n) not in there
    ]


def _dictionaries(run: Path) -> int | None:
    """Dictionaries of the whole sweep; None where no part has written it."""
    path = run / ARRAY_FILE
    return once(path, "dictionaries", _count) if path.is_file() else None


def _count(path: Path) -> int:
    from lensbench.saes.configs import SweepConfig

    return len(SweepConfig.from_yaml(path).expand())


def whole(run: Path, rows: Sequence[Mapping[str, Any]], absent: int) -> dict[str, Any]:
    """Rows of the parts as one row: what they have done is summed.

    A part that is ``absent`` has as many steps before it as the longest of the others.
    """
    states = [str(row["state"]) for row in rows]
    kept = [row for row in rows if row["state"] != "damaged"] or list(rows)
    each = max(int(row["steps"]) for row in kept)
    sums = {n: sum(int(row[n]) for row in rows) for n in ("dictionaries", "step", "tokens")}
    return {
        "run": str(run),
        "state": _state(states, absent),
        **sums,
        "steps": sum(int(row["steps"]) for row in rows) + absent * each,
        "started": min((str(row["started"]) for row in rows if row["started"]), default=""),
        "parts": len(rows) + absent,
        "parts_finished": states.count("finished"),
    }


def _state(states: Sequence[str], absent: int) -> str:
    """What is true of all of them: one that goes on, the worst end, or whether any is missing."""
    for state in (*reversed(LIVE), *WORST):
        if state in states:
            return state
    return INCOMPLETE if absent else states[0]


def told_state(row: Mapping[str, Any]) -> str:
    """The state as people read it: ``finished``, or ``stopped, 1 of 4 parts finished``."""
    state, parts = str(row["state"]), int(row.get("parts", 1))
    if parts == 1 or state == "finished":
        return state
    counted = f"{row['parts_finished']} of {parts} parts"
    return counted if state == INCOMPLETE else f"{state}, {counted} finished"


def goes_on(told: str) -> bool:
    """Whether a state, as :func:`told_state` says it, is one of a run that goes on."""
    return told.partition(",")[0] in LIVE


def how_to_finish(run: Path, rows: Sequence[Mapping[str, Any]], absent: Sequence[str]) -> list[str]:
    """Commands that train what is left of an array, one for each part."""
    commands = [
        f"lensbench train sae --resume {quote(str(row['run']))}"
        for row in rows
        if row["state"] not in (*LIVE, "finished", "damaged")
    ]
    sweep = run / ARRAY_FILE
    source = f"--config {quote(str(sweep))}" if sweep.is_file() else "[the same settings]"
    return commands + [
        f"lensbench train sae {source} --array {part} --out {quote(str(run))}" for part in absent
    ]
