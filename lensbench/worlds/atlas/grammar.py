"""The exact engine: templates that write a sentence word by word, and mixtures of them.

A template is a sequence of steps. Every random choice of a step is spoken at once, so a
template has no hidden state: its next-word distribution is a function of its visible prefix.
A mixture over templates then has exactly one hidden variable, which template is speaking, and
its posterior given the prefix is prior x likelihood. That makes the next-word distribution of
the whole world exact, with families and templates marginalised.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from zlib import crc32

from lensbench.errors import ConfigError

Bindings = dict[str, str]
"""Words spoken so far, by slot name."""


@dataclass(frozen=True, eq=False)
class Dist:
    """A distribution over words; the order of ``words`` is their rank (commonest first)."""

    words: tuple[str, ...]
    probs: tuple[float, ...]

    @classmethod
    def uniform(cls, words: Sequence[str]) -> Dist:
        """Equal weight on every word."""
        return cls(tuple(words), (1 / len(words),) * len(words))

    @classmethod
    def zipf(cls, words: Sequence[str], *, shift: float = 10.0) -> Dist:
        """P(rank r) ~ 1 / (r + shift), r from 0: mild, so that rare words are seen."""
        return cls.weighted({word: 1 / (r + shift) for r, word in enumerate(words)})

    @classmethod
    def weighted(cls, weights: Mapping[str, float]) -> Dist:
        """Proportional to non-negative ``weights``."""
        total = sum(weights.values())
        return cls(tuple(weights), tuple(w / total for w in weights.values()))

    @cached_property
    def table(self) -> dict[str, float]:
        """Word to probability."""
        return dict(zip(self.words, self.probs, strict=True))

    @cached_property
    def cumulative(self) -> list[float]:
        """Running sums, closed at exactly 1 so that a draw never falls off the end."""
        return [*list(accumulate(self.probs))[:-1], 1.0]

    def draw(self, rng: random.Random) -> str:
        """One word."""
        return self.words[bisect_right(self.cumulative, rng.random())]

    def where(self, keep: Callable[[str], bool]) -> Dist:
        """This distribution given that ``keep`` holds (empty where nothing is kept)."""
        kept = {w: p for w, p in self.table.items() if keep(w)}
        return Dist.weighted(kept) if kept else Dist((), ())

    def top(self, fraction: float, *, at_least: int = 12) -> Dist:
        """The commonest ``fraction`` of the words, for a curriculum of small pools."""
        count = max(at_least, round(fraction * len(self.words)))
        return (
            self
            if count >= len(self.words)
            else Dist.weighted(dict(list(self.table.items())[:count]))
        )


Rule = Callable[..., "str | Dist"]


@dataclass(frozen=True, eq=False)
class Step:
    """One word of a template: a literal, a draw from a pool, or a rule on earlier slots."""

    slot: str = ""
    literal: str = ""
    pool: Dist | None = None
    rule: Rule | None = None
    args: tuple[str, ...] = ()
    excluding: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()

    def dist(self, bound: Bindings) -> Dist | str:
        """The distribution of this word (a plain string where it is certain)."""
        if self.literal:
            return self.literal
        if self.rule is not None:
            return self.rule(*(bound[name] for name in self.args))
        if self.pool is None:
            raise ConfigError(f"step {self.slot!r} has neither a literal, a rule nor a pool")
        return self.pool


def draw(pool: Dist, *excluding: str) -> Step:
    """A word of ``pool`` that differs from the words in the slots ``excluding``."""
    return Step(pool=pool, excluding=excluding)


def calc(rule: Rule, *args: str) -> Step:
    """A word computed from earlier slots: a string (certain) or a ``Dist``."""
    return Step(rule=rule, args=args)


@dataclass(frozen=True, eq=False)
class Template:
    """A sentence pattern. ``surface`` names the wording that combinations are held out of."""

    name: str
    family: str
    surface: str
    steps: tuple[Step, ...]
    key: tuple[str, ...]
    order: int
    prior: float
    foil: Callable[[Bindings, str], tuple[str, ...]] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key_step(self) -> int:
        """Index of the step that completes the held-out key (first mentions count)."""
        return max(self.slots[name] for name in self.key)

    @cached_property
    def slots(self) -> dict[str, int]:
        """First step of every slot."""
        found: dict[str, int] = {}
        for i, step in enumerate(self.steps):
            found.setdefault(step.slot, i)
        found.pop("", None)
        return found


def parse(pattern: str, slots: Mapping[str, Step]) -> tuple[Step, ...]:
    """Turn ``"The capital of {c} is {k:answer} ."`` into steps.

    ``{slot}`` or ``{slot:tag,tag}`` speaks a slot; a slot named a second time repeats its word.
    ``<tag`` opens a region whose steps carry the tag, ``>`` closes the last one.
    """
    steps: list[Step] = []
    regions: list[str] = []
    seen: set[str] = set()
    for part in pattern.split():
        if part.startswith("<"):
            regions.append(part[1:])
        elif part == ">":
            regions.pop()
        elif match := re.fullmatch(r"\{(\w+)(?::([\w,]+))?\}", part):
            name, tags = match[1], set((match[2] or "").split(",")) - {""}
            step = calc(_same, name) if name in seen else slots[name]
            seen.add(name)
            steps.append(replace(step, slot=name, tags=frozenset({*tags, *regions})))
        else:
            steps.append(Step(literal=part, tags=frozenset(regions)))
    return tuple(steps)


def _same(word: str) -> str:
    return word


@dataclass(frozen=True)
class HoldOut:
    """Which entity x template combinations are kept out of training.

    A key falls in one of ``parts`` cells by a checksum; a template of order j holds out cell j, so
    a key is held out of at most one of a group's templates and always stays trainable in the rest.
    """

    seed: int
    parts: int = 8

    def holds(self, template: Template, key: Sequence[str]) -> bool:
        """Is this combination held out?"""
        text = f"{self.seed}|{' '.join(key)}"
        return crc32(text.encode()) % self.parts == template.order % self.parts
