"""A sentence with slots, written for a tokenizer: the text, and where each slot lies in it.

Wordings are written with spaces around punctuation. Most tokenizers get them closed up (``park,``);
a word-level tokenizer that has no such word gets them as they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SLOT = re.compile(r"\{(\w+)\}")
_CLOSED = re.compile(r" (?=[.,;:?!])")


@dataclass(frozen=True)
class Filled:
    """A text and the (start, end) characters of every slot by name."""

    text: str
    spans: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Wording:
    """``When {a} and {b} went to the {place} ,``; a slot's name occurs once."""

    name: str
    text: str

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(_SLOT.findall(self.text))

    def fill(self, words: Mapping[str, str], *, spaced: bool = False) -> Filled:
        """Put words into the slots; ``spaced`` keeps the space before punctuation."""
        frame = self.text if spaced else _CLOSED.sub("", self.text)
        out, spans, at = "", dict[str, tuple[int, int]](), 0
        for match in _SLOT.finditer(frame):
            out += frame[at : match.start()]
            spans[match[1]] = (len(out), len(out) + len(words[match[1]]))
            out += words[match[1]]
            at = match.end()
        return Filled(out + frame[at:], spans)
