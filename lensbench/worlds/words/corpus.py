"""Labelled texts of the words language: which word is being spelt, and what may come next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench import io
from lensbench.errors import ConfigError
from lensbench.worlds.corpora import FOLDS, LabelledCorpus
from lensbench.worlds.words.language import SEPARATOR, NextSymbol, Words


@dataclass(frozen=True, eq=False, repr=False)
class WordsCorpus(LabelledCorpus):
    """Texts of one width: BOS and symbols, cut wherever that is (there is no EOS).

    Labels of a token: ``is_separator`` (kind ``lexical``: a new word is chosen after it);
    ``determined`` (one symbol only can come next) and ``word <spelling>``, from the first symbol of
    a word to its separator (kind ``contextual``; of a word that is cut off as well).
    """

    said: tuple[tuple[int, ...], ...]
    """Words of every text in order, as indices into ``world.words``."""

    @classmethod
    def sample(
        cls, n_docs: int, seed: int = 0, *, width: int = 96, world_seed: int = 0
    ) -> WordsCorpus:
        """``n_docs`` texts of ``width`` tokens.

        Raises:
            ConfigError: no texts asked for, or fewer than two tokens.
        """
        if n_docs < 1 or width < 2:
            raise ConfigError(
                f"a corpus needs at least one text of two tokens, got {n_docs} of {width}"
            )
        world = Words(world_seed)
        rng = Random(f"words|corpus|{seed}")
        spoken = [world.spoken(width, rng) for _ in range(n_docs)]
        tokens = np.array([ids for ids, _ in spoken], np.int32)
        said = tuple(tuple(words) for _, words in spoken)
        labels = _labels(world, tokens, said)
        return cls(
            tokens=tokens.ravel(),
            offsets=np.arange(n_docs + 1, dtype=np.int64) * width,
            vocab=world.vocab,
            labels=labels,
            label_kinds={n: "lexical" if n == "is_separator" else "contextual" for n in labels},
            spec={"world": "words", "world_seed": world_seed, "n_docs": n_docs, "seed": seed,
                  "width": width},
            said=said,
        )  # fmt: skip

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> WordsCorpus:
        """The corpus that ``spec`` names, generated again."""
        if spec.get("world") != "words":
            raise ConfigError(f"a corpus of world {spec.get('world')!r}, not of 'words'")
        return cls.sample(
            spec["n_docs"], spec["seed"], width=spec["width"], world_seed=spec["world_seed"]
        )

    @cached_property
    def world(self) -> Words:
        """The language."""
        return Words(self.spec["world_seed"])

    @cached_property
    def _truth(self) -> list[NextSymbol]:
        return [self.world.next_symbol(self.document(i)) for i in range(self.n_docs)]

    @cached_property
    def entropy(self) -> Float[np.ndarray, " tokens"]:
        """Exact entropy of the next symbol after each token, nats."""
        return np.concatenate([one.entropy for one in self._truth])

    @cached_property
    def bayes(self) -> Int[np.ndarray, " tokens"]:
        """The most probable next symbol after each token."""
        return np.concatenate([one.best for one in self._truth])

    @cached_property
    def nll(self) -> Float[np.ndarray, " tokens"]:
        """Surprise of the language at the next symbol, nats; 0 at the last token of a text."""
        out = np.zeros(len(self.tokens))
        for i, one in enumerate(self._truth):
            ids = self.document(i)
            at = np.arange(len(ids) - 1)
            out[self.offsets[i] + at] = -np.log(one.probs[at, ids[1:]])
        return out

    def texts(self) -> list[str]:
        """One text per document, which the tokenizer gives back as ``document(i)``."""
        return [" ".join(self.words(i)[1:]) for i in range(self.n_docs)]

    def held(self, doc_ids: Int[np.ndarray, " docs"]) -> tuple[Bool[np.ndarray, " docs"], str]:
        """One text in four only scores; words and successors are the same on both sides."""
        return np.asarray(doc_ids) % FOLDS == 0, (
            f"1 text in {FOLDS} scores; every word is on both sides, since the language has no "
            "held-out part"
        )


def _labels(
    world: Words, tokens: Int[np.ndarray, "docs width"], said: tuple[tuple[int, ...], ...]
) -> dict[str, Bool[np.ndarray, " tokens"]]:
    spelt = np.full(tokens.shape, -1)
    for row, words in zip(spelt, said, strict=True):
        at = 1
        for word in words:
            row[at : at + len(world.words[word]) + 1] = word
            at += len(world.words[word]) + 1
    determined = np.stack([world.next_symbol(ids).determined for ids in tokens])
    labels = {
        "is_separator": tokens == SEPARATOR,
        "determined": determined,
    }
    for word, ids in enumerate(world.words):
        labels[f"word {''.join(world.vocab[i] for i in ids)}"] = spelt == word
    return {name: on.ravel() for name, on in labels.items()}


def write_jsonl(corpus: WordsCorpus, path: str | Path) -> Path:
    """Write one JSON object per text atomically: id, text, and the words that are spelt."""
    names = ["".join(corpus.vocab[i] for i in word) for word in corpus.world.words]
    rows = [
        json.dumps({"id": i, "text": text, "words": [names[w] for w in corpus.said[i]]})
        for i, text in enumerate(corpus.texts())
    ]
    io.write_text(Path(path), "\n".join(rows) + "\n")
    return Path(path)
