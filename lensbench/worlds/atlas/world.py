"""The atlas: which families exist, how often they speak, and what each split may say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from lensbench.errors import ConfigError
from lensbench.worlds.atlas import context, knowledge
from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.build import END, Family
from lensbench.worlds.atlas.grammar import HoldOut, Template
from lensbench.worlds.atlas.mixture import Mixture
from lensbench.worlds.atlas.people import People
from lensbench.worlds.atlas.tokenizer import SPECIALS, save_tokenizer

Split = Literal["train", "heldout", "all", "unknown"]
Variant = Literal["english", "equal"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "all", "unknown")
BOS, EOS = "[BOS]", END

SHARES = {
    "facts": 0.13,
    "analogies": 0.13,
    "recall": 0.15,
    "ioi": 0.12,
    "induction": 0.10,
    "agreement": 0.08,
    "comparison": 0.09,
    "letters": 0.05,
    "dictionary": 0.07,
    "garden": 0.04,
    "people": 0.06,
}
"""Share of documents per family (they are normalised)."""


@dataclass(frozen=True)
class Questions:
    """Prompts that end just before a certain answer, with one foil each."""

    family: str
    prompts: tuple[tuple[int, ...], ...]
    """Token ids from BOS up to, not including, the answer."""
    answers: np.ndarray
    foils: np.ndarray
    templates: tuple[str, ...]


class Atlas:
    """A world of eleven families of sentences whose every next-word probability is known.

    ``seed`` chooses which entities are common, who the known people are and what is held out;
    the facts themselves are real. ``variant="equal"`` speaks French and German as often as English
    in the dictionary family, which ``"english"`` does not.
    """

    def __init__(self, seed: int = 0, variant: Variant = "english") -> None:
        if variant not in ("english", "equal"):
            raise ConfigError(f"atlas has no variant {variant!r}; use 'english' or 'equal'")
        self.seed, self.variant = seed, variant
        self.hold = HoldOut(seed)
        self.people = People(seed)
        families = [
            knowledge.facts(seed),
            knowledge.analogies(seed),
            context.recall(seed),
            context.indirect_objects(seed),
            context.induction(seed),
            context.agreement(seed),
            context.numbers(seed),
            knowledge.letters(seed),
            knowledge.dictionary(seed, equal=variant == "equal"),
            context.garden_paths(seed),
            self.people.family(known=True),
            self.people.family(known=False),
        ]
        self.families = tuple(family.name for family in families)
        self.templates = tuple(chain.from_iterable(map(_weighted, families)))
        self.template_names = tuple(t.name for t in self.templates)
        self._mixtures: dict[tuple[str, float, str], Mixture] = {}

    def __repr__(self) -> str:
        """Seed, variant and sizes in one line."""
        return (
            f"Atlas(seed={self.seed}, variant={self.variant!r}: {len(self.vocab)} words, "
            f"{len(self.templates)} templates)"
        )

    # ---- words ----------------------------------------------------------------------------
    @cached_property
    def vocab(self) -> tuple[str, ...]:
        """Every word of the world, specials first; the position is the token id."""
        literals = {step.literal for t in self.templates for step in t.steps if step.literal}
        return (*SPECIALS, *sorted((literals | lex.all_words()) - set(SPECIALS)))

    @cached_property
    def index(self) -> dict[str, int]:
        """Word to token id."""
        return {word: i for i, word in enumerate(self.vocab)}

    def save_tokenizer(self, folder: str | Path) -> Path:
        """Write a word-level ``tokenizer.json`` that ``AutoTokenizer`` reads."""
        return save_tokenizer(self.vocab, Path(folder))

    # ---- distributions --------------------------------------------------------------------
    def mixture(
        self, split: Split | Literal["world"], *, pool: float = 1.0, family: str = ""
    ) -> Mixture:
        """The exact distribution of a split.

        ``train`` leaves the held-out combinations out; ``world`` is everything but strangers and is
        what held-out documents are measured against; ``all`` adds strangers as often as known
        people; ``unknown`` is known people and strangers alone, half and half.
        """
        key = (split, pool, family)
        if key not in self._mixtures:
            wanted = self._speakers(split)
            chosen = [t for t in self.templates if t.family in wanted and family in ("", t.family)]
            if not chosen:
                raise ConfigError(
                    f"split {split!r} has no family {family!r}; it has {sorted(wanted)}"
                )
            hold = self.hold if split == "train" else None
            self._mixtures[key] = Mixture(chosen, held_out=hold, pool=pool)
        return self._mixtures[key]

    def _speakers(self, split: str) -> set[str]:
        if split == "unknown":
            return {"people", "strangers"}
        return set(self.families) - (set() if split == "all" else {"strangers"})

    def reference(self, split: Split) -> Mixture:
        """The mixture whose predictions are the truth for documents of ``split``."""
        return self.mixture("world" if split == "heldout" else split)

    def is_held_out(self, template: Template, words: Sequence[str]) -> bool:
        """Does this sentence of ``template`` use a combination kept out of training?"""
        return self.hold.holds(template, [words[template.slots[k]] for k in template.key])

    # ---- documents ------------------------------------------------------------------------
    def documents(
        self, split: Split, seed: int, *, pool: float = 1.0, family: str = ""
    ) -> Iterator[tuple[Template, list[str]]]:
        """Endless (template, words) pairs; words do not include BOS, and end with EOS."""
        if split not in SPLITS:
            raise ConfigError(f"atlas has no split {split!r}; use one of {', '.join(SPLITS)}")
        mixture = self.mixture("world" if split == "heldout" else split, pool=pool, family=family)
        rng = random.Random(f"atlas|{self.seed}|{self.variant}|{split}|{family}|{seed}")
        while True:
            i, words = mixture.sample(rng)
            template = mixture.templates[i]
            while split == "heldout" and not self.is_held_out(template, words):
                words = mixture.speak(template, rng)
            yield template, words

    def sample(self, n_docs: int, split: Split = "train", seed: int = 0, *, family: str = ""):
        """``n_docs`` labelled documents as a :class:`Corpus`; equal arguments, equal corpus."""
        from lensbench.worlds.atlas.corpus import build_corpus

        return build_corpus(self, n_docs, split, seed, family=family)

    def questions(self, family: str, n: int, split: Split = "heldout", seed: int = 0) -> Questions:
        """``n`` prompts of a family whose next word is certain, each with a plausible foil."""
        if not any(t.family == family and _answers(t) for t in self.templates):
            able = sorted({t.family for t in self.templates if _answers(t)})
            raise ConfigError(f"family {family!r} has no certain answers; use one of {able}")
        rng = random.Random(f"questions|{seed}")
        prompts: list[tuple[int, ...]] = []
        answers, foils, names = [], [], []
        for template, words in self.documents(split, seed, family=family):
            places = _answers(template)
            if len(prompts) == n:
                break
            if not places:
                continue
            at = rng.choice(places)
            bound = {slot: words[i] for slot, i in template.slots.items()}
            candidates = template.foil(bound, words[at]) if template.foil else ()
            foil = rng.choice(candidates)
            prompts.append((self.index[BOS], *(self.index[w] for w in words[:at])))
            answers.append(self.index[words[at]])
            foils.append(self.index[foil])
            names.append(template.name)
        return Questions(family, tuple(prompts), np.array(answers), np.array(foils), tuple(names))


def _weighted(family: Family) -> tuple[Template, ...]:
    share = SHARES["people" if family.name == "strangers" else family.name]
    total = sum(t.prior for t in family.templates)
    return tuple(replace(t, prior=share * t.prior / total) for t in family.templates)


def _answers(template: Template) -> list[int]:
    """Steps that are certain answers."""
    return [i for i, step in enumerate(template.steps) if "answer" in step.tags]
