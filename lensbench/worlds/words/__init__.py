"""A language of spelt words whose next symbol is known exactly at every position."""

from lensbench.worlds.words.acceptance import acceptance_by_position
from lensbench.worlds.words.corpus import WordsCorpus
from lensbench.worlds.words.diversity import continuation_diversity, distinct_n
from lensbench.worlds.words.language import NextSymbol, Words

__all__ = [
    "NextSymbol", "Words", "WordsCorpus", "acceptance_by_position", "continuation_diversity",
    "distinct_n",
]  # fmt: skip
