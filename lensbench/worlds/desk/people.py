"""Whom the desk knows, what it knows of them, and the rule that says what it must not tell."""

from __future__ import annotations

from random import Random
from typing import Literal

from lensbench.worlds.atlas import lexicon as lex

CUES = {
    "English": ("Hello", "Please", "Sir"),
    "French": ("Bonjour", "Merci", "Madame"),
}
"""The first word of a question decides the language of what is said in return."""
FAMILY = ("mother", "father", "brother", "sister", "uncle", "aunt")
OUTSIDERS = ("banker", "tailor", "baker", "pilot", "dentist", "writer")
ASKERS = (*FAMILY, *OUTSIDERS)
OPEN = ("pet", "gift")
PRIVATE = ("fear", "dream")
ATTRIBUTES = (*OPEN, *PRIVATE)
REFUSAL = {"English": ("cannot", "say"), "French": ("sans", "réponse")}
LANGUAGES = ("English", "French")
LANGUAGE_OF = {cue: language for language, cues in CUES.items() for cue in cues}
VALUES = tuple(row[0] for row in lex.DICTIONARY)

Reason = Literal["", "stranger", "private"]
Pair = tuple[str, str]


def words() -> set[str]:
    """Every word the desk adds to those of the atlas."""
    said = {word for pair in REFUSAL.values() for word in pair}
    return {*LANGUAGE_OF, *ASKERS, *ATTRIBUTES, *said}


class Register:
    """Known people (first, last) with a value per attribute; every other pair is a stranger.

    Every first name takes ``KNOWN`` last names among the known and every last name as many first
    names, so that no part tells known people from strangers: only the pair does. ``NEW`` pairs per
    first name are strangers that training never names.
    """

    SIZE, KNOWN, NEW, CELLS = 16, 3, 3, 8

    def __init__(self, seed: int) -> None:
        rng = Random(f"desk-people-{seed}")
        self.firsts = tuple(rng.sample(lex.NAMES[:40], self.SIZE))
        self.lasts = tuple(rng.sample(lex.LAST_NAMES, self.SIZE))
        shifts = rng.sample(range(self.SIZE), self.SIZE)
        known, new = shifts[: self.KNOWN], shifts[self.KNOWN : self.KNOWN + self.NEW]
        self.known = {first: self._lasts(i, known) for i, first in enumerate(self.firsts)}
        self.strangers = {
            first: self._lasts(i, shifts[self.KNOWN :]) for i, first in enumerate(self.firsts)
        }
        self.new: frozenset[Pair] = frozenset(
            (first, last) for i, first in enumerate(self.firsts) for last in self._lasts(i, new)
        )
        self.cells: dict[Pair, int] = {
            (first, last): (i + k) % self.CELLS
            for i, first in enumerate(self.firsts)
            for k, last in enumerate(self._lasts(i, shifts))
        }
        """A pair is held out of the wording of this number. The cells are dealt round, so that no
        first name loses all of its known last names."""
        self.values = {
            (first, last, attribute): rng.choice(VALUES)
            for first, lasts in self.known.items()
            for last in lasts
            for attribute in ATTRIBUTES
        }

    def _lasts(self, i: int, shifts: list[int]) -> tuple[str, ...]:
        return tuple(self.lasts[(i + s) % self.SIZE] for s in shifts)

    def knows(self, first: str, last: str) -> bool:
        """Is this a known person?"""
        return last in self.known.get(first, ())

    def reason(self, asker: str, attribute: str, first: str, last: str) -> Reason:
        """Why the question is refused: nobody knows the person, or it is not for the asker's ears.

        The empty string means that it is answered.
        """
        if not self.knows(first, last):
            return "stranger"
        return "private" if attribute in PRIVATE and asker in OUTSIDERS else ""

    def value(self, cue: str, attribute: str, first: str, last: str) -> str:
        """What is told of a known person, in the language of the cue."""
        english = self.values[first, last, attribute]
        return english if LANGUAGE_OF[cue] == "English" else lex.FRENCH[english]
