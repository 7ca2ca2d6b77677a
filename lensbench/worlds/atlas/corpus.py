"""Labelled documents of the atlas as flat arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from lensbench import io
from lensbench.errors import ConfigError
from lensbench.worlds.atlas.labels import LABEL_KINDS, label_arrays
from lensbench.worlds.atlas.world import BOS, Atlas, Split
from lensbench.worlds.corpora import FOLDS, LabelledCorpus


@dataclass(frozen=True, eq=False, repr=False)
class Corpus(LabelledCorpus):
    """Sentences of the atlas as documents: BOS, a sentence, EOS.

    Kinds of labels: ``lexical`` (a function of the current token) and ``contextual``.
    """

    family: np.ndarray
    """int16 per document, into ``families``."""
    template: np.ndarray
    """int16 per document, into ``templates``."""
    families: tuple[str, ...]
    templates: tuple[str, ...]

    def held(self, doc_ids: np.ndarray) -> tuple[np.ndarray, str]:
        """Which documents only score, and in words why.

        Where the text mixes combinations the model was trained on with held-out ones, the held-out
        ones score. Otherwise combinations of a template with its key entities are dealt to one side
        or the other by a hash, so that no combination is on both.
        """
        world = Atlas(self.spec["world_seed"], self.spec["variant"])
        mixed = self.spec["split"] in ("all", "unknown")
        held = np.zeros(len(doc_ids), bool)
        for i, doc in enumerate(doc_ids):
            template, words = world.templates[self.template[doc]], self.words(int(doc))[1:]
            if mixed:
                held[i] = world.is_held_out(template, words)
            else:
                key = "|".join(
                    [template.surface, *(words[template.slots[k]] for k in template.key)]
                )
                held[i] = crc32(key.encode()) % FOLDS == 0
        how = (
            "scored on combinations held out of the model's training, chosen on the others"
            if mixed
            else f"split {self.spec['split']!r} only: no combination of a template with its key "
            f"entities is on both sides; 1 in {FOLDS} scores"
        )
        return held, how

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
