"""Labels of every token: lexical ones are functions of the word, contextual ones are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.contextual import CONTEXTUAL, Sentences

if TYPE_CHECKING:
    from lensbench.worlds.atlas.world import Atlas


@dataclass(frozen=True)
class Words:
    """A set of words as a predicate."""

    words: frozenset[str]

    def __call__(self, word: str) -> bool:
        """Is ``word`` one of them?"""
        return word in self.words


def _among(*pools: Iterable[str]) -> Words:
    return Words(frozenset(w for pool in pools for w in pool))


_EUROPE = [c for c, continent in lex.FACTS["continent"].items() if continent == "Europe"]
_ASIA = [c for c, continent in lex.FACTS["continent"].items() if continent == "Asia"]

LEXICAL: dict[str, Callable[[str], bool]] = {
    "is_country": _among(lex.COUNTRIES),
    "is_european_country": _among(_EUROPE),
    "is_asian_country": _among(_ASIA),
    "is_capital": _among(lex.CAPITALS),
    "is_language": _among(lex.FACTS["language"].values()),
    "is_currency": _among(lex.FACTS["currency"].values()),
    "is_continent": _among(lex.FACTS["continent"].values()),
    "is_name": _among(lex.NAMES),
    "is_last_name": _among(lex.LAST_NAMES),
    "is_profession": _among(lex.PROFESSIONS),
    "is_singular_noun": _among(lex.PLURALS),
    "is_plural_noun": _among(lex.SINGULAR_OF),
    "is_quality": _among(lex.QUALITIES),
    "is_singular_verb": _among(lex.VERBS, lex.EMBEDDED),
    "is_plural_verb": _among(lex.VERBS.values(), lex.EMBEDDED.values()),
    "is_french_word": _among(lex.FRENCH.values()),
    "is_german_word": _among(lex.GERMAN.values()),
    "is_number": _among(lex.NUMBERS),
    "is_number_above_25": _among(lex.NUMBERS[25:]),
    "is_letter": _among(lex.LETTERS),
    "is_past_verb": _among(lex.PASTS.values()),
    "is_comma": _among([","]),
    "is_colon": _among([":"]),
    "starts_upper": lambda word: word[0].isupper(),
    "starts_with_vowel": lambda word: word[0].lower() in "aeiou",
}

LABEL_KINDS: dict[str, str] = {
    **dict.fromkeys(LEXICAL, "lexical"),
    **dict.fromkeys(CONTEXTUAL, "contextual"),
}


def label_arrays(
    world: Atlas, tokens: np.ndarray, offsets: np.ndarray, template: np.ndarray
) -> dict[str, np.ndarray]:
    """One bool array over ``tokens`` per label; documents of one template are labelled together."""
    labels = {
        name: np.array([rule(w) for w in world.vocab])[tokens] for name, rule in LEXICAL.items()
    }
    for name in CONTEXTUAL:
        labels[name] = np.zeros(len(tokens), dtype=bool)
    for t in np.unique(template):
        starts = offsets[:-1][template == t]
        length = len(world.templates[t].steps) + 1
        rows = starts[:, None] + np.arange(length)
        sentences = Sentences(world, world.templates[t], tokens[rows])
        for name, rule in CONTEXTUAL.items():
            found = rule(sentences)
            if found is not None:
                labels[name][rows] = found
    return labels
