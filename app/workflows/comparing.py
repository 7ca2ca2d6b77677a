"""Two runs beside each other in words: settings, whether they compare, what they reach."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensbench.app.workflows.compare_figures import numbers_table
from lensbench.app.workflows.run_compare import (
    Side,
    compare_runs,
    provenance,
    reached,
    settings,
)
from lensbench.saes.runs import STATUS_FILE

Table = Callable[..., str]


def compared_runs(one: Path, other: Path) -> dict[str, Any]:
    """:func:`compare_runs` of two runs, each ``RUN`` or one dictionary ``RUN/NAME``.

    Raises:
        MissingDataError: no run there.
        UnknownNameError: a run has no such dictionary.
    """
    (first, a), (second, b) = _parted(one), _parted(other)
    return compare_runs(first, second, a, b)


def compared_in_text(facts: dict[str, Any], *, every: bool, table: Table) -> str:
    """The same in words, in the order in which one reads it: settings first."""
    left, right = (_side(facts[key]) for key in ("one", "other"))
    names = {"one": left.name, "other": right.name}
    parts = ["settings that differ", _rows(settings(left, right).rename(columns=names), table)]
    parts += ["", "do the numbers compare?"]
    parts += [f"  no: {why}" for why in facts["not_comparable"]] or ["  yes"]
    parts += [f"  {name}: {words}" for name, words in facts["trained_on"].items()]
    numbers = reached(left, right)
    parts += ["", "what they reach", _rows(numbers_table(left, right, numbers), table)]
    if every:
        controls = numbers.loc[numbers["source"] != "dictionary"]
        parts += ["", "controls", _rows(controls, table)]
        parts += ["", "provenance", _rows(provenance(left, right).rename(columns=names), table)]
    return "\n".join(parts)


def _parted(path: Path) -> tuple[Path, str]:
    """A run and one of its dictionaries, where the path names one."""
    inside = not (path / STATUS_FILE).is_file() and (path.parent / STATUS_FILE).is_file()
    return (path.parent, path.name) if inside else (path, "")


def _side(told: dict[str, Any]) -> Side:
    return Side(Path(told["run"]), told["name"], told["dictionary"])


def _rows(frame: Any, table: Table) -> str:
    return table(frame.to_dict("records")) if len(frame) else "  none"
