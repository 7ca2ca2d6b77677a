"""Contextual labels: rules on all sentences of one template at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.grammar import Template

if TYPE_CHECKING:
    from lensbench.worlds.atlas.world import Atlas


@dataclass(frozen=True)
class Sentences:
    """Documents of one template: ids [n, length], column 0 is BOS, column i + 1 is step i."""

    world: Atlas
    template: Template
    ids: np.ndarray

    def tagged(self, tag: str) -> np.ndarray:
        """Bool [length]: columns whose step carries ``tag``."""
        return np.array([False, *(tag in step.tags for step in self.template.steps)])

    def before(self, tag: str) -> np.ndarray:
        """Bool [length]: columns whose *next* step carries ``tag``."""
        return np.array([*(tag in step.tags for step in self.template.steps), False])

    def slot(self, name: str) -> np.ndarray:
        """Ids [n] of a slot's first mention."""
        return self.ids[:, self.column(name)]

    def column(self, name: str) -> int:
        """Column of a slot's first mention."""
        return self.template.slots[name] + 1

    def has(self, name: str) -> bool:
        """Does this template speak the slot?"""
        return name in self.template.slots

    def among(self, name: str, words: Collection[str]) -> np.ndarray:
        """Bool [n]: the word of slot ``name`` is one of ``words``."""
        index = self.world.index
        return np.isin(self.slot(name), [index[w] for w in words])

    def spread(self, columns: np.ndarray, documents: np.ndarray | None = None) -> np.ndarray:
        """Bool [n, length]: ``columns`` of every document, or of those ``documents`` name."""
        n = len(self.ids)
        rows = np.ones(n, dtype=bool) if documents is None else documents
        return rows[:, None] & columns[None, :]

    def at(self, column: int) -> np.ndarray:
        """Bool [length]: one column."""
        return np.arange(self.ids.shape[1]) == column

    def after(self, column: int) -> np.ndarray:
        """Bool [length]: the columns past ``column``."""
        return np.arange(self.ids.shape[1]) > column


Rule = Callable[[Sentences], "np.ndarray | None"]


def _family(s: Sentences, *, family: str) -> np.ndarray | None:
    """Every token of a family's documents but BOS and EOS."""
    inside = s.after(0) & ~s.at(s.ids.shape[1] - 1)
    return s.spread(inside) if s.template.family == family else None


def _region(s: Sentences, *, tag: str) -> np.ndarray:
    return s.spread(s.tagged(tag))


def _before_answer(s: Sentences) -> np.ndarray:
    return s.spread(s.before("answer"))


def _asks(s: Sentences, *, relation: str) -> np.ndarray | None:
    """The token before the answer of a fact of this relation."""
    mine = s.template.family == "facts" and s.template.facts["relation"] == relation
    return s.spread(s.before("answer")) if mine else None


def _fact_continent(s: Sentences, *, continent: str) -> np.ndarray | None:
    """The token before a fact's answer, where its country lies in ``continent``."""
    if s.template.family != "facts" or not s.has("country"):
        return None
    countries = [c for c, where in lex.FACTS["continent"].items() if where == continent]
    return s.spread(s.before("answer"), s.among("country", countries))


def _analogy(s: Sentences, *, relations: Collection[str]) -> np.ndarray | None:
    """From the target b on, in analogies of these relations."""
    mine = s.template.family == "analogies" and s.template.facts["relation"] in relations
    return s.spread(s.after(s.column("b") - 1)) if mine else None


def _seen_before(s: Sentences) -> np.ndarray:
    """The same word stands earlier in the document (words, not punctuation)."""
    marks = [i for i, w in enumerate(s.world.vocab) if not any(c.isalnum() for c in w)]
    seen = np.zeros_like(s.ids, dtype=bool)
    for j in range(1, s.ids.shape[1]):
        seen[:, j] = (s.ids[:, :j] == s.ids[:, j : j + 1]).any(1)
    return seen & ~np.isin(s.ids, marks)


def _plural_subject(s: Sentences) -> np.ndarray | None:
    """Between a plural subject and its verb (the noun itself excluded)."""
    if s.template.family != "agreement":
        return None
    between = s.after(s.column("s")) & ~s.after(s.column("v") - 1)
    return s.spread(between, s.among("s", lex.SINGULAR_OF))


def _attraction(s: Sentences) -> np.ndarray | None:
    """At the token before the verb: the nearest noun differs in number from the subject."""
    if s.template.family != "agreement" or not s.has("d"):
        return None
    near = s.among("e" if s.has("e") else "d", lex.SINGULAR_OF)
    return s.spread(s.before("answer"), near != s.among("s", lex.SINGULAR_OF))


def _queried(s: Sentences, *, last: bool) -> np.ndarray | None:
    """A key asked again that was told first (or last) in the list."""
    if s.template.family != "recall":
        return None
    n = sum(name.startswith("k") for name in s.template.slots)
    told = s.slot(f"k{n - 1 if last else 0}")
    found = np.zeros_like(s.ids, dtype=bool)
    for name in s.template.slots:
        if name.startswith("q"):
            found[:, s.column(name)] = s.slot(name) == told
    return found


def _list_key(s: Sentences) -> np.ndarray | None:
    """A key where the list first tells it."""
    if s.template.family != "recall":
        return None
    columns = [s.column(k) for k in s.template.slots if k.startswith("k")]
    return s.spread(np.isin(np.arange(s.ids.shape[1]), columns))


def _actor_again(s: Sentences) -> np.ndarray | None:
    """The second mention of a name, which acts (at its first mention that is not yet known)."""
    return s.spread(s.tagged("actor")) if s.template.family == "ioi" else None


def _io_first(s: Sentences) -> np.ndarray | None:
    """After the actor's second mention: the receiver was named first (ABBA)."""
    if s.template.family != "ioi":
        return None
    rest = s.after(s.column("s") - 1) & ~s.after(s.column("io") - 1)
    return s.spread(rest, s.slot("a") == s.slot("io"))


def _left_greater(s: Sentences) -> np.ndarray | None:
    """From the second number to just before the answer: the first number is greater."""
    if s.template.family != "comparison" or not s.has("b"):
        return None
    value = {s.world.index[w]: int(w) for w in lex.NUMBERS}
    left = np.array([value[i] for i in s.slot("a")])
    right = np.array([value[i] for i in s.slot("b")])
    last = int(np.flatnonzero(s.before("answer"))[0])
    return s.spread(s.after(s.column("b") - 1) & ~s.after(last), left > right)


def _person(s: Sentences, *, known: str, at_last_name: bool) -> np.ndarray | None:
    """At the last name, or on every token after it, of a known (or unknown) person."""
    if s.template.facts.get("known") != known:
        return None
    column = s.column("last")
    return s.spread(s.at(column) if at_last_name else s.after(column))


def _language(s: Sentences, *, side: str, language: str) -> np.ndarray | None:
    """The token before a translation, by source or target language."""
    mine = s.template.facts.get(side) == language
    return s.spread(s.before("answer")) if mine else None


CONTEXTUAL: dict[str, Rule] = {
    **{
        f"family_{name}": partial(_family, family=name)
        for name in (
            "facts",
            "analogies",
            "recall",
            "ioi",
            "induction",
            "agreement",
            "comparison",
            "letters",
            "dictionary",
            "garden",
            "people",
        )
    },
    **{f"asks_{r}": partial(_asks, relation=r) for r in (*lex.RELATIONS, "country")},
    **{
        f"fact_in_{c.lower()}": partial(_fact_continent, continent=c)
        for c in ("Europe", "Asia", "Africa", "America")
    },
    "analogy_geography": partial(_analogy, relations=lex.RELATIONS),
    "analogy_translation": partial(_analogy, relations=("french", "german")),
    "analogy_grammar": partial(_analogy, relations=("plural", "comparative", "past")),
    "before_answer": _before_answer,
    "is_answer": partial(_region, tag="answer"),
    "seen_before": _seen_before,
    "repeated_word": partial(_region, tag="again"),
    "in_recall": partial(_region, tag="recall"),
    "list_key": _list_key,
    "queried_first_key": partial(_queried, last=False),
    "queried_last_key": partial(_queried, last=True),
    "actor_again": _actor_again,
    "io_named_first": _io_first,
    "in_distractor": partial(_region, tag="distractor"),
    "attractor_noun": partial(_region, tag="attractor"),
    "subject_noun": partial(_region, tag="subject"),
    "plural_subject_pending": _plural_subject,
    "number_conflict": _attraction,
    "left_greater": _left_greater,
    "known_person": partial(_person, known="yes", at_last_name=True),
    "unknown_person": partial(_person, known="no", at_last_name=True),
    "after_known_person": partial(_person, known="yes", at_last_name=False),
    "after_unknown_person": partial(_person, known="no", at_last_name=False),
    "in_subordinate": partial(_region, tag="subordinate"),
    "ambiguous_region": partial(_region, tag="ambiguous"),
    "disambiguating_verb": partial(_region, tag="trap"),
    "from_english": partial(_language, side="source", language="English"),
    "from_french": partial(_language, side="source", language="French"),
    "to_french": partial(_language, side="target", language="French"),
    "to_german": partial(_language, side="target", language="German"),
}
"""Name to rule; ``None`` from a rule means that the template never carries the label."""
