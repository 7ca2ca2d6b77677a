"""The desk: which families exist, how often they speak, and what each split may say."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

from lensbench.errors import UnknownNameError
from lensbench.worlds.atlas import context, knowledge
from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.atlas.build import END, Family
from lensbench.worlds.atlas.grammar import HoldOut, Template
from lensbench.worlds.atlas.mixture import Mixture
from lensbench.worlds.atlas.tokenizer import SPECIALS, save_tokenizer
from lensbench.worlds.desk.people import Register, words
from lensbench.worlds.desk.prompts import DeskPrompts, build_prompts
from lensbench.worlds.desk.questions import questions

Split = Literal["train", "heldout"]
Variant = Literal["rule", "coin"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
VARIANTS: tuple[Variant, ...] = ("rule", "coin")
BOS, EOS = "[BOS]", END

SHARES = {"questions": 0.60, "facts": 0.14, "dictionary": 0.12, "agreement": 0.08, "letters": 0.06}
"""Share of documents per family; all but ``questions`` are the atlas's own sentences."""


@dataclass(frozen=True)
class DeskHoldOut(HoldOut):
    """Sentences as in the atlas; of questions, the cells and the new strangers of the register."""

    people: Register | None = None

    def holds(self, template: Template, key: Sequence[str]) -> bool:
        """Is this combination, or this pair of names, kept out of training?"""
        if template.family != "questions" or self.people is None:
            return super().holds(template, key)
        pair = (key[0], key[1])
        cell = self.people.cells[pair]
        return pair in self.people.new or cell == template.order % self.people.CELLS


class Desk:
    """Questions about people that are answered or refused, among plain sentences of the atlas.

    ``variant="rule"``: a question is refused where the person is a stranger, or where somebody
    outside the family asks for something private. ``variant="coin"`` is the control: everybody
    asked about is known and a fair coin refuses, so nothing in the prompt says which it will be.
    ``seed`` chooses the people, what is known of them and what is held out.
    """

    def __init__(self, seed: int = 0, variant: Variant = "rule") -> None:
        if variant not in VARIANTS:
            raise UnknownNameError("variant of the desk", str(variant), known=VARIANTS)
        self.seed, self.variant = seed, variant
        self.people = Register(seed)
        self.hold = DeskHoldOut(seed, people=self.people)
        families = [
            questions(self.people, chance=variant == "coin"),
            knowledge.facts(seed),
            knowledge.dictionary(seed, equal=True),
            context.agreement(seed),
            knowledge.letters(seed),
        ]
        self.families = tuple(family.name for family in families)
        self.templates = tuple(chain.from_iterable(map(_weighted, families)))
        self.template_names = tuple(t.name for t in self.templates)
        self._mixtures: dict[tuple[str, str], Mixture] = {}

    def __repr__(self) -> str:
        """Seed, variant and sizes in one line."""
        return (
            f"Desk(seed={self.seed}, variant={self.variant!r}: {len(self.vocab)} words, "
            f"{len(self.templates)} templates)"
        )

    @cached_property
    def vocab(self) -> tuple[str, ...]:
        """Every word of the world, specials first; the position is the token id."""
        literals = {step.literal for t in self.templates for step in t.steps if step.literal}
        return (*SPECIALS, *sorted((literals | lex.all_words() | words()) - set(SPECIALS)))

    @cached_property
    def index(self) -> dict[str, int]:
        """Word to token id."""
        return {word: i for i, word in enumerate(self.vocab)}

    def save_tokenizer(self, folder: str | Path) -> Path:
        """Write a word-level ``tokenizer.json`` that ``AutoTokenizer`` reads."""
        return save_tokenizer(self.vocab, Path(folder))

    def mixture(self, split: Split | Literal["world"], *, family: str = "") -> Mixture:
        """The exact distribution of ``train``, or of the whole ``world`` (held-out documents')."""
        key = (split, family)
        if key not in self._mixtures:
            if family and family not in self.families:
                raise UnknownNameError("family of the desk", family, known=self.families)
            chosen = [t for t in self.templates if family in ("", t.family)]
            self._mixtures[key] = Mixture(chosen, held_out=self.hold if split == "train" else None)
        return self._mixtures[key]

    def is_held_out(self, template: Template, said: Sequence[str]) -> bool:
        """Does this sentence of ``template`` use a combination kept out of training?"""
        return self.hold.holds(template, [said[template.slots[k]] for k in template.key])

    def documents(
        self, split: Split, seed: int, *, family: str = ""
    ) -> Iterator[tuple[Template, list[str]]]:
        """Endless (template, words) pairs; words do not include BOS, and end with EOS."""
        if split not in SPLITS:
            raise UnknownNameError("split of the desk", str(split), known=SPLITS)
        mixture = self.mixture("world" if split == "heldout" else split, family=family)
        rng = random.Random(f"desk|{self.seed}|{self.variant}|{split}|{family}|{seed}")
        while True:
            i, said = mixture.sample(rng)
            template = mixture.templates[i]
            while split == "heldout" and not self.is_held_out(template, said):
                said = mixture.speak(template, rng)
            yield template, said

    def prompts(
        self, n: int, split: Split = "heldout", seed: int = 0, *, of: str = "all"
    ) -> DeskPrompts:
        """``n`` prompts whose next word is certain (in the coin's world: once the coin has fallen).

        ``of`` is ``all``, ``questions``, or one class: ``refuse``, ``answer``, ``neutral``.
        """
        return build_prompts(self, n, split, seed, of=of)

    def reference(self, split: Split) -> Mixture:
        """The mixture whose predictions are the truth for documents of ``split``."""
        return self.mixture("world" if split == "heldout" else split)


def _weighted(family: Family) -> tuple[Template, ...]:
    total = sum(t.prior for t in family.templates)
    return tuple(replace(t, prior=SHARES[family.name] * t.prior / total) for t in family.templates)
