"""What the corpora of all worlds share, so that stores and evaluations need not know the world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from lensbench.errors import ConfigError, UnknownNameError

WORLDS = ("atlas", "othello", "words")
FOLDS = 4
"""One document group in four is kept for scoring where the text has no held-out part."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelledCorpus(ABC):
    """Documents in sampling order; token ``j`` of document ``i`` is row ``offsets[i] + j``.

    Documents share no context. ``labels`` hold one bool per token. ``spec`` alone gives the same
    corpus again.
    """

    tokens: np.ndarray
    """int32, one per token."""
    offsets: np.ndarray
    """int64, n_docs + 1."""
    vocab: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    label_kinds: Mapping[str, str]
    """``lexical`` (a function of the current token), ``contextual`` or another word."""
    spec: Mapping[str, Any]

    def __repr__(self) -> str:
        """One line: documents, tokens, labels."""
        return (f"{type(self).__name__}({self.n_docs:,} documents, {len(self.tokens):,} tokens, "
                f"{len(self.labels)} labels)")  # fmt: skip

    @property
    def n_docs(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per document, BOS and EOS included."""
        return np.diff(self.offsets)

    @cached_property
    def doc_ids(self) -> np.ndarray:
        """Document of every token."""
        return np.repeat(np.arange(self.n_docs), self.lengths)

    @cached_property
    def positions(self) -> np.ndarray:
        """Position of every token in its document (BOS is 0)."""
        return np.arange(len(self.tokens)) - np.repeat(self.offsets[:-1], self.lengths)

    def rows(self, doc_ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Rows of (document, position) pairs, to join labels with stored activations.

        Raises:
            ConfigError: a document or a position that this corpus does not have.
        """
        doc_ids, positions = np.asarray(doc_ids), np.asarray(positions)
        if doc_ids.size and (doc_ids.min() < 0 or doc_ids.max() >= self.n_docs):
            raise ConfigError(f"document ids must lie in 0..{self.n_docs - 1}")
        if np.any((positions < 0) | (positions >= self.lengths[doc_ids])):
            raise ConfigError("a position lies past the end of its document")
        return self.offsets[doc_ids] + positions

    def document(self, i: int) -> np.ndarray:
        """Token ids of document ``i``."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def words(self, i: int) -> list[str]:
        """Words of document ``i``, BOS and EOS included."""
        return [self.vocab[t] for t in self.document(i)]

    def texts(self) -> list[str]:
        """One text per document; the tokenizer gives back ``document(i)`` without its EOS."""
        return [" ".join(self.words(i)[1:-1]) for i in range(self.n_docs)]

    @abstractmethod
    def held(self, doc_ids: Int[np.ndarray, " docs"]) -> tuple[Bool[np.ndarray, " docs"], str]:
        """Which of some documents only score, and in words what separates the halves."""


def corpus_from_spec(spec: Mapping[str, Any]) -> LabelledCorpus:
    """The corpus of any world that ``spec`` names, generated again.

    Raises:
        UnknownNameError: a world that there is not.
    """
    if spec.get("world") == "othello":
        from lensbench.worlds.othello.corpus import OthelloCorpus

        return OthelloCorpus.from_spec(spec)
    if spec.get("world") == "atlas":
        from lensbench.worlds.atlas.corpus import Corpus

        return Corpus.from_spec(spec)
    if spec.get("world") == "words":
        from lensbench.worlds.words.corpus import WordsCorpus

        return WordsCorpus.from_spec(spec)
    raise UnknownNameError("world", str(spec.get("world")), known=WORLDS)
