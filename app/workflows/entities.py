"""Prompts about entities of two classes by name: a file, a task, or the people of the atlas.

A file has an object a line: ``{"text": "Alice the baker lives in", "entity": "Alice", "first":
true}``, and if wanted ``"group"``, ``"answer"`` and ``"foil"`` (each the text of one token).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.app.workflows.patching import pairs_of
from lensbench.app.workflows.token_names import token_named
from lensbench.app.workflows.typed_files import utf8
from lensbench.config import Config
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.interventions import EntityPrompts, entities_of_pairs, entity_prompts
from lensbench.interventions.selection.entities import KNOWN
from lensbench.worlds.refusing import PEOPLE_SPLITS, RefusingAtlas

PEOPLE = "people"


class Row(Config):
    """A line of a file of entities."""

    text: str
    """The prompt."""
    entity: str
    """Its name, as it stands in the text once."""
    first: bool
    """Whether it is of the first class."""
    group: str = "all"
    """Type of entity, or wording."""
    answer: str = ""
    """Text of the one token that is right after the prompt."""
    foil: str = ""
    """Text of the one token that is wrong."""


@dataclass(frozen=True)
class EntityAsk:
    """Which entities, and how many pairs where they come from a task."""

    entities: str
    """A ``.jsonl`` file, ``people:train`` or ``people:heldout``, or ``TASK:ROLE``."""
    classes: tuple[str, str] = KNOWN
    n: int = 64
    seed: int = 0


def entities_of(model: Any, ask: EntityAsk) -> EntityPrompts:
    """The prompts.

    Raises:
        ConfigError: a file whose lines cannot be read, or a name that is none of the three kinds.
        MissingDataError: no such file.
        UnknownNameError: no such split, task or role.
    """
    kind, _, rest = ask.entities.partition(":")
    if kind == PEOPLE:
        return _people(model, rest or PEOPLE_SPLITS[0], ask.classes)
    if ask.entities.endswith(".jsonl"):
        return _of_file(model, Path(ask.entities), ask.classes)
    if not rest:
        raise ConfigError(
            f"--entities {ask.entities!r} cannot be read; give FILE.jsonl, people:train, "
            "people:heldout, or TASK:ROLE such as first_letter:word"
        )
    pairs = pairs_of(model, kind, ask.n, ask.seed)
    classes = ("clean", "corrupted") if ask.classes == KNOWN else ask.classes
    return entities_of_pairs(model, pairs, rest, classes=classes)


def _people(model: Any, split: str, classes: tuple[str, str]) -> EntityPrompts:
    from lensbench.worlds.atlas import Atlas

    if split not in PEOPLE_SPLITS:
        raise UnknownNameError("split of the people", split, known=PEOPLE_SPLITS)
    asked = RefusingAtlas(Atlas(seed=0)).prompts(split)
    return entity_prompts(
        model, asked.texts, asked.names, [bool(k) for k in asked.known], asked.wordings,
        classes=classes, answer=[int(a) for a in asked.answers],
    )  # fmt: skip


def _of_file(model: Any, file: Path, classes: tuple[str, str]) -> EntityPrompts:
    if not file.is_file():
        raise MissingDataError(f"--entities: there is no file {file}")
    rows: list[Row] = []
    for number, line in enumerate(utf8(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row.parse(json.loads(line)))
        except ConfigError as error:
            raise ConfigError(f"{file}, line {number}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{file}, line {number} is no JSON object: {error}") from error
    if not rows:
        raise ConfigError(f'{file} is empty; write {{"text": .., "entity": .., "first": true}}')
    return entity_prompts(
        model, [r.text for r in rows], [r.entity for r in rows], [r.first for r in rows],
        [r.group for r in rows], classes=classes, answer=_tokens(model, file, rows, "answer"),
        foil=_tokens(model, file, rows, "foil"),
    )  # fmt: skip


def _tokens(model: Any, file: Path, rows: list[Row], name: str) -> list[int] | None:
    given = [getattr(row, name) for row in rows]
    if not any(given):
        return None
    if not all(given):
        raise ConfigError(f"{file}: line {given.index('') + 1} has no {name!r}, and others have")
    return [token_named(model.tokenizer, text) for text in given]
