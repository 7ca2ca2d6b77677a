"""Prompts that ask attributes of entities: what interchange interventions are scored on.

Every prompt names one entity and ends just before one attribute's value, a single token. Prompts of
one wording differ in the entity only, so that one can lend the other its activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.worlds.atlas import Atlas

Where = Literal["entity", "end"]


@dataclass(frozen=True, eq=False)
class AttributePrompts:
    """Prompts by entity, attribute and wording, and where in them the entity is represented."""

    entities: tuple[str, ...]
    attributes: tuple[str, ...]
    values: Int[np.ndarray, "entities attributes"]
    """Token id of each attribute's value; -1 where an entity has none."""
    ids: tuple[tuple[int, ...], ...]
    """Token ids up to, not including, the value."""
    entity: Int[np.ndarray, " prompts"]
    attribute: Int[np.ndarray, " prompts"]
    wording: Int[np.ndarray, " prompts"]
    """Prompts lend each other activations where this is equal."""
    position: Int[np.ndarray, " prompts"]
    """Token at which activations are exchanged, counted from 0 with BOS."""

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        n, shape = len(self.ids), (len(self.entities), len(self.attributes))
        for name in ("entity", "attribute", "wording", "position"):
            column = np.asarray(getattr(self, name))
            if column.shape != (n,) or column.dtype.kind not in "iu":
                raise ConfigError(f"{name} must be one whole number per prompt ({n})")
        if self.values.shape != shape or not n or len(self.attributes) < 2:
            raise ConfigError(
                f"attributes are isolated from one another: give two or more, prompts, and values "
                f"of shape {list(shape)}; got {n} prompts, values {list(self.values.shape)}"
            )
        inside = (self.position >= 0) & (self.position < [len(row) for row in self.ids])
        known = (self.entity < shape[0]) & (self.attribute < shape[1])
        if not inside.all() or not known.all() or min(self.entity.min(), self.attribute.min()) < 0:
            bad = int(np.flatnonzero(~(inside & known))[0]) if not (inside & known).all() else 0
            raise ConfigError(f"prompt {bad} names a token, an entity or an attribute there is not")
        seen = {(int(e), int(w)) for e, w in zip(self.entity, self.wording, strict=True)}
        asked = {(int(w), int(a)) for w, a in zip(self.wording, self.attribute, strict=True)}
        if len(seen) < n or len(asked) > len({w for w, _ in asked}):
            raise ConfigError("a wording asks one attribute, once of every entity")

    @property
    def answer(self) -> Int[np.ndarray, " prompts"]:
        """Token id of the value that each prompt asks."""
        return self.values[self.entity, self.attribute]

    def __repr__(self) -> str:
        """Sizes in one line."""
        n = len(np.unique(self.wording))
        names = ", ".join(self.attributes)
        return f"AttributePrompts({len(self.entities)} entities; {names}; {n} wordings)"


def atlas_attributes(
    world: Atlas | None = None, entities: str = "countries", *, at: Where = "end"
) -> AttributePrompts:
    """The atlas' ``countries`` (capital, language, ...) or ``people`` (job, city).

    Every wording of the world that asks an attribute, for every entity. ``at="entity"`` exchanges
    at the last token of the entity's name, as RAVEL does, ``"end"`` at the prompt's last token.
    A small model may have read the name before the site (in ``atlas-dense`` block 0 does): then the
    name's token carries nothing any more, and exchanging all of it there has no effect.

    Raises:
        UnknownNameError: other entities, another place.

    Example:
        >>> questions = saes.atlas_attributes(entities="countries", at="end")
    """
    world = world or Atlas(0)
    _one_of("kind of entities", entities, ("countries", "people"))
    _one_of("place", at, ("entity", "end"))
    family, slots = ("facts", ("country",)) if entities == "countries" else _PEOPLE
    tables = _tables(world, entities)
    names = tuple(tables)
    who = list(next(iter(tables.values())))
    rows: list[tuple[tuple[int, ...], int, int, int, int]] = []
    for number, template in enumerate(t for t in world.templates if t.family == family):
        end = next(i for i, step in enumerate(template.steps) if "answer" in step.tags)
        asks = template.facts.get("relation", template.steps[end].slot)
        if asks not in names:
            continue
        spoken = template.steps[:end]
        place = (
            max(i for i, s in enumerate(spoken) if s.slot in slots) if at == "entity" else end - 1
        )
        for i, parts in enumerate(who):
            bound = dict(zip(slots, parts, strict=True))
            words = [world.index[s.literal or bound[s.slot]] for s in spoken]
            row = (world.index["[BOS]"], *words)
            rows.append((row, i, names.index(asks), number, place + 1))
    ids, *columns = zip(*rows, strict=True)
    entity, attribute, wording, position = (np.array(c, np.int64) for c in columns)
    values = np.array([[world.index[tables[a][w]] for a in names] for w in who], np.int64)
    return AttributePrompts(
        tuple(" ".join(w) for w in who), names, values, tuple(ids), entity, attribute, wording,
        position,
    )  # fmt: skip


_PEOPLE = ("people", ("first", "last"))


def _tables(world: Atlas, entities: str) -> dict[str, dict[tuple[str, ...], str]]:
    if entities == "people":
        people = world.people
        return {"job": {**people.jobs}, "city": {**people.cities}}
    from lensbench.worlds.atlas.lexicon import FACTS

    return {name: {(c,): v for c, v in table.items()} for name, table in FACTS.items()}


def _one_of(what: str, came: Any, known: Sequence[str]) -> None:
    if came not in known:
        raise UnknownNameError(what, str(came), known=known)
