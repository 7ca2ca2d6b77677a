"""Prompts for the study of experts, by what a user typed: a file, or questions of the desk."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lensbench.app.workflows.typed_files import is_there, utf8
from lensbench.errors import ConfigError, DamagedDataError, MissingDataError, UnknownNameError

_FORMS = (
    'a .jsonl file with a "text" (and "label", "group") per line, a .txt file (- for stdin), or '
    "desk:N"
)


@dataclass(frozen=True)
class NamedPrompts:
    """Texts, and what is known of each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    refusals: tuple[str, ...] = ()
    """What a refusal says, where the world of the prompts knows."""


def find_prompts(name: str, option: str = "--prompts", *, neutral: bool = False) -> NamedPrompts:
    """The prompts that ``name`` names; ``desk:N:SPLIT:SEED`` are questions of the desk.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: a line that is no prompt.
        ConfigError: no prompt at all, or a malformed name.
    """
    if name.partition(":")[0] == "desk" and not Path(name).exists():
        return _desk(name, option, "neutral" if neutral else "questions")
    path = Path(name)
    if not is_there(path):
        raise MissingDataError(f"{option} {name}: no such file; give {_FORMS}")
    lines = [line for line in utf8(path).splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{option} {name} holds no prompt; give {_FORMS}")
    if path.suffix != ".jsonl":
        return NamedPrompts(tuple(lines))
    rows = [_row(name, number, line) for number, line in enumerate(lines, 1)]
    found = NamedPrompts(tuple(row["text"] for row in rows))
    for key, field in (("label", "labels"), ("group", "groups")):
        have = [key in row for row in rows]
        if any(have) and not all(have):
            raise DamagedDataError(f"{name}, line {have.index(False) + 1} has no {key!r}")
        if all(have):
            found = replace(found, **{field: tuple(str(row[key]) for row in rows)})
    return found


def _row(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise DamagedDataError(f"{name}, line {number} is no JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DamagedDataError(f'{name}, line {number} has no "text"')
    return row


def _desk(name: str, option: str, of: str) -> NamedPrompts:
    from lensbench.worlds.desk import SPLITS, Desk
    from lensbench.worlds.desk.people import REFUSAL

    parts = name.split(":")[1:]
    count, split, seed = [*parts, *["", "heldout", "0"][len(parts) :]][:3]
    if len(parts) > 3 or not count.isdigit() or not int(count) or not seed.isdigit():
        raise ConfigError(f"{option} {name}: write desk:N, or desk:N:SPLIT:SEED")
    if split not in SPLITS:
        raise UnknownNameError("split", split, known=SPLITS)
    made: Any = Desk(0).prompts(int(count), split, seed=int(seed), of=of)
    said = tuple(" ".join(words) for words in REFUSAL.values())
    labels, groups = (tuple(map(str, x)) for x in (made.classes, made.entities))
    return NamedPrompts(tuple(made.texts), labels, groups, said)
