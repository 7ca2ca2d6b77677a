"""Prompts of the desk with everything that is known about them, ready for a study."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.worlds.atlas.grammar import Template
from lensbench.worlds.desk.people import LANGUAGE_OF, REFUSAL

if TYPE_CHECKING:
    from lensbench.worlds.desk.world import Desk, Split

CLASSES = ("refuse", "answer", "neutral")


@dataclass(frozen=True, eq=False)
class DeskPrompts:
    """Prompts that end just before a certain word. Arrays hold one entry per prompt."""

    tokens: tuple[tuple[int, ...], ...]
    """Ids from BOS up to, not including, the answer."""
    answers: np.ndarray
    """Id of the right next word: of a value, or of the first word of a refusal."""
    classes: np.ndarray
    """``refuse``, ``answer``, or ``neutral`` (a sentence of the atlas, no question of the desk)."""
    reasons: np.ndarray
    """``stranger`` or ``private`` where refused, else empty."""
    languages: np.ndarray
    """Language that the cue asks for; empty for neutral prompts."""
    templates: np.ndarray
    """Wording, without its kind: ``questions/asks`` is refused in some places, not in others."""
    entities: np.ndarray
    """What the prompt is about: the two names of a question, the key of a sentence."""
    new: np.ndarray
    """Bool: a stranger whose pair of names training never says."""
    vocab: tuple[str, ...]

    def __repr__(self) -> str:
        """One line: prompts of each class."""
        names, counts = np.unique(self.classes, return_counts=True)
        told = ", ".join(f"{n} {name}" for name, n in zip(names, counts, strict=True))
        return f"DeskPrompts({len(self)}: {told})"

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.tokens)

    def __getitem__(self, keep: np.ndarray | slice) -> DeskPrompts:
        """The prompts that a mask, indices or a slice name."""
        rows = np.arange(len(self))[keep]
        arrays = ("answers", "classes", "reasons", "languages", "templates", "entities", "new")
        some = {name: getattr(self, name)[rows] for name in arrays}
        return DeskPrompts(tuple(self.tokens[i] for i in rows), vocab=self.vocab, **some)

    @property
    def texts(self) -> list[str]:
        """The prompts as text, without BOS (a tokenizer adds it)."""
        return [" ".join(self.vocab[t] for t in ids[1:]) for ids in self.tokens]

    @property
    def refusals(self) -> dict[str, int]:
        """Token id of the first word of a refusal, per language."""
        return {language: self.vocab.index(said[0]) for language, said in REFUSAL.items()}

    def halves(self, seed: int = 0) -> tuple[DeskPrompts, DeskPrompts]:
        """Two halves that share no entity: what is found on one is tried on the other."""
        found = sorted(set(self.entities.tolist()))
        Random(f"desk-halves-{seed}").shuffle(found)
        side = np.isin(self.entities, found[: len(found) // 2])
        return self[side], self[~side]


def build_prompts(desk: Desk, n: int, split: Split, seed: int, *, of: str = "all") -> DeskPrompts:
    """``n`` prompts of ``split``; ``of`` keeps one class, and ``questions`` keeps two of them.

    Raises:
        ConfigError: fewer than one prompt.
        UnknownNameError: no such class.
    """
    if n < 1:
        raise ConfigError(f"the number of prompts must be at least 1, got {n}")
    kept = {"all": CLASSES, "questions": CLASSES[:2], **{name: (name,) for name in CLASSES}}
    if of not in kept:
        raise UnknownNameError("class of prompts", of, known=tuple(kept))
    rows: list[tuple[Template, list[str], int]] = []
    family = "questions" if of in ("refuse", "answer", "questions") else ""
    for template, said in desk.documents(split, seed, family=family):
        if len(rows) == n:
            break
        places = [i for i, step in enumerate(template.steps) if "answer" in step.tags]
        if places and template.facts.get("class", "neutral") in kept[of]:
            rows.append((template, said, places[-1]))
    return _assembled(desk, rows)


def _assembled(desk: Desk, rows: list[tuple[Template, list[str], int]]) -> DeskPrompts:
    index, bos = desk.index, desk.index["[BOS]"]
    keys = [[said[t.slots[k]] for k in t.key] for t, said, _ in rows]
    asked = [t.family == "questions" for t, _, _ in rows]
    return DeskPrompts(
        tokens=tuple((bos, *(index[w] for w in said[:at])) for _, said, at in rows),
        answers=np.array([index[said[at]] for _, said, at in rows]),
        classes=np.array([t.facts.get("class", "neutral") for t, _, _ in rows]),
        reasons=np.array([t.facts.get("reason", "") for t, _, _ in rows]),
        languages=np.array(
            [LANGUAGE_OF[said[0]] if q else "" for (_, said, _), q in zip(rows, asked, strict=True)]
        ),
        templates=np.array([t.surface for t, _, _ in rows]),
        entities=np.array([" ".join(key) for key in keys]),
        new=np.array([q and tuple(k) in desk.people.new for k, q in zip(keys, asked, strict=True)]),
        vocab=desk.vocab,
    )
