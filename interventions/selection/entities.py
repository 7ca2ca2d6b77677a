"""Prompts about entities of two classes: where the entity stands, and which class it is of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from lensbench.arguments import whole
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.interventions.experts.rows import rows_of, texts_of
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs

KNOWN = ("known", "unknown")


@dataclass(frozen=True, eq=False)
class EntityPrompts:
    """Prompts that each name one entity of one of two classes."""

    rows: tuple[tuple[int, ...], ...]
    """Token ids, BOS included, without padding."""
    tokens: tuple[tuple[int, ...], ...]
    """Numbers of the entity's tokens in each row, in reading order."""
    entity: tuple[str, ...]
    """The entity's name; halves, folds and permutations go by it, never by the prompt."""
    first: Bool[np.ndarray, " prompts"]
    """Whether the entity is of the first class."""
    group: tuple[str, ...]
    """Type of entity, or wording: a general latent has to separate in every group."""
    classes: tuple[str, str] = KNOWN
    answer: tuple[int, ...] | None = None
    """Token after each prompt, for metrics that ask for it."""
    foil: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        """One line: prompts, entities, and how many of each class."""
        n = int(self.first.sum())
        return (f"EntityPrompts({len(self.rows)} prompts, {len(set(self.entity))} entities: {n} "
                f"{self.classes[0]}, {len(self.rows) - n} {self.classes[1]})")  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse prompts whose entity, class or group is not known.

        Raises:
            ConfigError: fields of unequal length, no entity token, or an entity of both classes.
        """
        n = len(self.rows)
        object.__setattr__(self, "first", flags("first", self.first, n))
        for name in ("tokens", "entity", "group", "answer", "foil"):
            given = getattr(self, name)
            if given is not None and len(given) != n:
                raise ConfigError(f"{name} must hold one entry per prompt ({n}), got {len(given)}")
        for row, (ids, where) in enumerate(zip(self.rows, self.tokens, strict=True)):
            if not where or any(whole(i) is None or not 0 <= i < len(ids) for i in where):
                raise ConfigError(
                    f"the entity of prompt {row} must stand at tokens of 0..{len(ids) - 1}, got "
                    f"{tuple(where)!r}"
                )
        one_class(self.entity, self.first)

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.rows)

    @property
    def entities(self) -> tuple[str, ...]:
        """Every entity once, in order of appearance."""
        return tuple(dict.fromkeys(self.entity))

    def select(self, chosen: Any) -> "EntityPrompts":
        """Some prompts, by a mask or by their numbers."""
        index = np.arange(len(self))[np.asarray(chosen)]
        pick = lambda values: None if values is None else tuple(values[i] for i in index)  # noqa: E731 - used below
        return EntityPrompts(
            pick(self.rows) or (), pick(self.tokens) or (), pick(self.entity) or (),
            self.first[index], pick(self.group) or (), self.classes,
            pick(self.answer), pick(self.foil),
        )  # fmt: skip

    def halves(self, seed: int = 0) -> tuple["EntityPrompts", "EntityPrompts"]:
        """Two halves that share no entity; each class of each group is divided evenly.

        Raises:
            NotEnoughDataError: a class of a group with fewer than two entities.
        """
        rng, mine = np.random.default_rng(seed), set[str]()
        for names in _strata(self).values():
            if len(names) < 2:
                raise NotEnoughDataError(
                    f"halves need two entities of each class and group; {names[0]!r} is alone"
                )
            order = rng.permutation(len(names))
            mine |= {names[i] for i in order[: len(names) // 2]}
        inside = np.array([name in mine for name in self.entity])
        return self.select(inside), self.select(~inside)


def _strata(prompts: EntityPrompts) -> dict[Any, list[str]]:
    """Entities by class and the groups that they appear in."""
    groups: dict[str, set[str]] = {}
    of: dict[str, bool] = {}
    for name, group, first in zip(prompts.entity, prompts.group, prompts.first, strict=True):
        groups.setdefault(name, set()).add(group)
        of[name] = bool(first)
    found: dict[Any, list[str]] = {}
    for name in prompts.entities:
        found.setdefault((of[name], tuple(sorted(groups[name]))), []).append(name)
    return found


def flags(name: str, values: Any, n: int) -> np.ndarray:
    """``values`` as one yes or no per prompt.

    Raises:
        ConfigError: another number of them, or other values.
    """
    found = np.asarray(values)
    if found.shape != (n,) or found.dtype.kind not in "biu" or not np.isin(found, (0, 1)).all():
        raise ConfigError(
            f"{name} must hold True or False for each of {n} prompts, got {found.dtype} of shape "
            f"{list(found.shape)}"
        )
    return found.astype(bool)


def one_class(entity: Sequence[str], first: np.ndarray) -> None:
    """Refuse an entity of both classes.

    Raises:
        ConfigError: with its name.
    """
    both = {e for e, f in zip(entity, first, strict=True) if f}
    both &= {e for e, f in zip(entity, first, strict=True) if not f}
    if both:
        raise ConfigError(f"entity {min(both)!r} is of both classes; drop it or name it apart")


def entity_prompts(
    model: Model,
    texts: Sequence[str],
    entities: Sequence[str],
    first: Sequence[bool],
    groups: Sequence[str] | None = None,
    *,
    classes: tuple[str, str] = KNOWN,
    answer: Sequence[int] | None = None,
    foil: Sequence[int] | None = None,
) -> EntityPrompts:
    """Prompts from texts; the entity's tokens are found by its name, which stands there once.

    Raises:
        ConfigError: a name that its text has not, or has twice; a tokenizer that does not say
            where its tokens stand (make :class:`EntityPrompts` from ids then).

    Example:
        >>> names = ["Alice", "Carl", "Emma", "Hugo"]
        >>> texts = [f"{name} the baker lives in" for name in names]
        >>> known = interventions.entity_prompts(model, texts, names, [True, True, False, False])
    """
    tokenizer: Any = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            "finding names in texts needs a fast tokenizer; make EntityPrompts from token ids"
        )
    rows = rows_of(model, list(texts))
    if len(entities) != len(texts):
        raise ConfigError(f"got {len(texts)} texts and {len(entities)} entities")
    told = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    found: list[tuple[int, ...]] = []
    for text, name, row, ids, spans in zip(
        texts, entities, rows, told["input_ids"], told["offset_mapping"], strict=True
    ):
        if not name or text.count(name) != 1:
            raise ConfigError(f"{text!r} must name {name!r} once, not {text.count(name)} times")
        if row[len(row) - len(ids) :] != list(ids):
            raise ConfigError(f"{text!r} is tokenised otherwise by the model than by itself")
        start, front = text.index(name), len(row) - len(ids)
        stop = start + len(name)
        found.append(
            tuple(front + i for i, (a, b) in enumerate(spans) if a < stop and b > start and b > a)
        )
    return EntityPrompts(
        tuple(map(tuple, rows)), tuple(found), tuple(entities), np.asarray(first),
        tuple(groups) if groups is not None else ("all",) * len(rows), classes,
        None if answer is None else tuple(answer), None if foil is None else tuple(foil),
    )  # fmt: skip


def entities_of_pairs(
    model: Model,
    pairs: PromptPairs,
    roles: str | Sequence[str],
    *,
    classes: tuple[str, str] = ("clean", "corrupted"),
) -> EntityPrompts:
    """Clean prompts as the first class, corrupted ones as the second, at position roles.

    An entity is what is said at the roles; answer and foil change places in corrupted prompts where
    the task flips. Groups are the wordings.

    Raises:
        UnknownNameError: a role that the pairs have not.
        ConfigError: a role that some prompt lacks, or the same entity on both sides.

    Example:
        >>> known = interventions.entities_of_pairs(model, pairs, "subject")
    """
    check_pairs(model, pairs)
    pairs.require_next_token("a study of entities")
    named = [roles] if isinstance(roles, str) else list(roles)
    where = tuple(zip(*(pairs.position(role) for role in named), strict=True))
    rows = (*pairs.clean_ids, *pairs.corrupted_ids)
    tokens = (*where, *where)
    said = [
        [row[i] for i in at] if min(at) >= 0 else [] for row, at in zip(rows, tokens, strict=True)
    ]
    if [] in said:
        raise ConfigError(f"prompt {said.index([]) % len(pairs)} has not all of the roles {named}")
    turned = (pairs.foil, pairs.answer) if pairs.flips else (pairs.answer, pairs.foil)
    first = np.arange(len(rows)) < len(pairs)
    return EntityPrompts(
        rows, tokens, texts_of(model, said), first, (*pairs.wordings, *pairs.wordings), classes,
        (*pairs.answer, *turned[0]), (*pairs.foil, *turned[1]),
    )  # fmt: skip
