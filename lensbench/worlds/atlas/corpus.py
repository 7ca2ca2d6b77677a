"""Labelled documents of the atlas as flat arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.errors import ConfigError
from lensbench.worlds.atlas.labels import LABEL_KINDS, label_arrays
from lensbench.worlds.atlas.world import BOS, Atlas, Split


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents in sampling order; token ``j`` of document ``i`` is row ``offsets[i] + j``.

    Every document is BOS, a sentence, EOS, and shares no context with the next one. ``labels`` hold
    one bool per token. ``spec`` alone gives the same corpus again.
    """

    tokens: np.ndarray
    """int32, one per token."""
    offsets: np.ndarray
    """int64, n_docs + 1."""
    family: np.ndarray
    """int16 per document, into ``families``."""
    template: np.ndarray
    """int16 per document, into ``templates``."""
    families: tuple[str, ...]
    templates: tuple[str, ...]
    vocab: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    label_kinds: Mapping[str, str]
    """``lexical`` (a function of the current token) or ``contextual``."""
    spec: Mapping[str, Any]

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

    @cached_property
    def _truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        world = Atlas(self.spec["world_seed"], self.spec["variant"])
        mixture = world.reference(self.spec["split"])
        entropy = np.zeros(len(self.tokens))
        nll = np.zeros(len(self.tokens))
        bayes = np.full(len(self.tokens), -1, dtype=np.int32)
        for i in range(self.n_docs):
            start, words = int(self.offsets[i]), self.words(i)[1:]
            for j, (prediction, word) in enumerate(zip(mixture.trace(words), words, strict=True)):
                entropy[start + j] = prediction.entropy
                nll[start + j] = -np.log(prediction.probs[word])
                bayes[start + j] = world.index[prediction.bayes]
        return entropy, bayes, nll

    @property
    def entropy(self) -> np.ndarray:
        """Entropy in nats of the *next* token given the visible prefix (0 at EOS); exact, slow."""
        return self._truth[0]

    @property
    def bayes(self) -> np.ndarray:
        """Id of the most probable next token given the visible prefix (-1 at EOS)."""
        return self._truth[1]

    @property
    def nll(self) -> np.ndarray:
        """-log p of the *next* token under the world, nats (0 at EOS): the floor of a loss."""
        return self._truth[2]

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Corpus:
        """The corpus that ``spec`` names, sampled again."""
        if spec.get("world") != "atlas":
            raise ConfigError(f"a corpus of world {spec.get('world')!r}, not of 'atlas'")
        world = Atlas(spec["world_seed"], spec["variant"])
        return world.sample(spec["n_docs"], spec["split"], spec["seed"], family=spec["family"])


def build_corpus(world: Atlas, n_docs: int, split: Split, seed: int, *, family: str = "") -> Corpus:
    """Sample ``n_docs`` documents of ``split`` and label every token.

    Raises:
        ConfigError: a negative or zero number of documents, an unknown split or family.
    """
    if n_docs < 1:
        raise ConfigError(f"n_docs must be at least 1, got {n_docs}")
    place = {t.name: i for i, t in enumerate(world.templates)}
    docs: list[list[int]] = []
    template = np.zeros(n_docs, dtype=np.int16)
    for i, (spoken, words) in enumerate(
        islice(world.documents(split, seed, family=family), n_docs)
    ):
        docs.append([world.index[BOS], *(world.index[w] for w in words)])
        template[i] = place[spoken.name]
    offsets = np.cumsum([0, *(len(d) for d in docs)]).astype(np.int64)
    tokens = np.fromiter((t for d in docs for t in d), dtype=np.int32, count=int(offsets[-1]))
    of_template = np.array([world.families.index(t.family) for t in world.templates], np.int16)
    return Corpus(
        tokens=tokens,
        offsets=offsets,
        family=of_template[template],
        template=template,
        families=world.families,
        templates=world.template_names,
        vocab=world.vocab,
        labels=label_arrays(world, tokens, offsets, template),
        label_kinds=dict(LABEL_KINDS),
        spec={
            "world": "atlas",
            "world_seed": world.seed,
            "variant": world.variant,
            "split": split,
            "n_docs": n_docs,
            "seed": seed,
            "family": family,
        },
    )


def jsonl(corpus: Corpus) -> Iterator[str]:
    """One JSON object per document: id, text, family, template."""
    for i, text in enumerate(corpus.texts()):
        row = {
            "id": i,
            "text": text,
            "family": corpus.families[corpus.family[i]],
            "template": corpus.templates[corpus.template[i]],
        }
        yield json.dumps(row, ensure_ascii=False)


def write_jsonl(corpus: Corpus, path: str | Path) -> Path:
    """Write :func:`jsonl` to ``path`` atomically."""
    path = Path(path)
    io.write_text(path, "\n".join(jsonl(corpus)) + "\n")
    return path
