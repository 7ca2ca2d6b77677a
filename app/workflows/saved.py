"""A result that was saved, as facts; and which of its pictures is meant."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.settings import assignments
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.results import Result, load


def saved_facts(
    folder: Path, *, view: Sequence[str] = (), by: str = "", top: int | None = None
) -> dict[str, Any]:
    """Rows, summary, controls and origin of a saved result.

    Raises:
        MissingDataError: no result there; names those in folders below.
        UnknownNameError: no such column, or no such argument of its picture.
    """
    if not (folder / "result.json").is_file():
        below = sorted(str(p.parent) for p in folder.glob("*/result.json"))[:5]
        said = f"; results below it: {', '.join(below)}" if below else ""
        raise MissingDataError(f"no result in {folder} (a folder with result.json){said}")
    found = load(folder)
    columns = [str(c) for c in found.to_frame().columns]
    if by and by not in columns:
        raise UnknownNameError("column", by, known=columns)
    made = found.provenance
    facts = result_facts(str(made.model.get("name", "")), found, None, top=top, by=by,
                         view=view_of(found, view), kind=found.kind,
                         made=made.when or "no time recorded")  # fmt: skip
    return {**facts, "folder": str(folder), "config": dict(found.config),
            "provenance": made.to_dict()}  # fmt: skip


def view_of(result: Result, given: Sequence[str]) -> dict[str, Any]:
    """``metric=kl`` as arguments of the result's picture.

    Raises:
        ConfigError: no ``key=value``.
        UnknownNameError: an argument that it has not; offers the nearest.
    """
    if odd := [item for item in given if "=" not in item]:
        raise ConfigError(f"--view needs key=value, such as metric=entropy; got {odd[0]!r}")
    known = [name for name in signature(type(result).plot).parameters if name != "self"]
    asked = assignments(given)
    for name in asked:
        if name not in known:
            raise UnknownNameError(f"argument of the picture of {result.kind}", name, known=known)
    return asked
