"""Prompts about named concepts: what is bound to what, and what the next word should be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.probes.hd.memory import ItemMemory

if TYPE_CHECKING:
    from lensbench.models import Model

_FORM = "a : b = c : d"


@dataclass(frozen=True)
class ConceptPrompts:
    """Texts that stop before the last word, and the bound pairs that each is about.

    The last pair of a row is the question: its key is asked, its value is the word that follows.
    """

    texts: tuple[str, ...]
    pairs: tuple[tuple[tuple[str, str], ...], ...]
    mentioned: tuple[tuple[str, ...], ...]
    """Concepts that stand in the text, in the order of their last mention."""
    relations: tuple[str, ...]
    """What kind of question each row is; figures are given by it."""

    def __post_init__(self) -> None:
        """Refuse rows of different form: one encoder has one number of pairs.

        Raises:
            ConfigError: no rows, columns of different length, or ragged rows (shows one).
        """
        columns = (self.texts, self.pairs, self.mentioned, self.relations)
        if not self.texts or len({len(c) for c in columns}) != 1:
            sizes = ", ".join(str(len(c)) for c in columns)
            raise ConfigError(f"texts, pairs, mentioned and relations need a row each, got {sizes}")
        n = len(self.pairs[0])
        for row, pairs in enumerate(self.pairs):
            if len(pairs) != n or n == 0:
                raise ConfigError(
                    f"prompts of one form have as many pairs: row 0 has {n} and row {row} has "
                    f"{len(pairs)}: {self.texts[row]!r}. Probe the forms one by one"
                )

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.texts)

    @property
    def queries(self) -> tuple[str, ...]:
        """The concept that each row asks about."""
        return tuple(pairs[-1][0] for pairs in self.pairs)

    @property
    def targets(self) -> tuple[str, ...]:
        """The word that should follow."""
        return tuple(pairs[-1][1] for pairs in self.pairs)

    @property
    def groups(self) -> tuple[str, ...]:
        """Entity and relation asked about; intervals resample these, splits go by them."""
        return tuple(f"{r}|{q}" for r, q in zip(self.relations, self.queries, strict=True))

    @property
    def concepts(self) -> tuple[str, ...]:
        """Every concept of these prompts, sorted: a codebook's names."""
        return tuple(sorted({word for row in self.pairs for pair in row for word in pair}))

    def select(self, rows: Sequence[int] | np.ndarray) -> "ConceptPrompts":
        """Some of the rows."""
        take: Any = lambda column: tuple(column[int(i)] for i in rows)  # noqa: E731 - one use
        return ConceptPrompts(*map(take, (self.texts, self.pairs, self.mentioned, self.relations)))

    def numbers(self, memory: ItemMemory) -> Int[Tensor, "n pairs two"]:
        """Pairs as rows of a codebook.

        Raises:
            UnknownNameError: a concept that is not in it; offers the nearest name.
        """
        return torch.tensor([[memory.indices(pair) for pair in row] for row in self.pairs])


def from_analogies(texts: Sequence[str], relations: Sequence[str] | None = None) -> ConceptPrompts:
    """Prompts from whole analogies ``a : b = c : d``; the last word is taken off and asked for.

    More example pairs may stand before the last, each followed by ``=``.

    Raises:
        ConfigError: a text of another form (shows it), or rows with different numbers of pairs.

    Example:
        >>> asked = probes.from_analogies(["France : Paris = Peru : Lima"])
    """
    pairs = [_parse(row, text) for row, text in enumerate(texts)]
    heads = tuple(" = ".join(f"{a} : {b}" for a, b in p[:-1]) for p in pairs)
    return ConceptPrompts(
        tuple(f"{h} = {p[-1][0]} :" if h else f"{p[-1][0]} :"
              for h, p in zip(heads, pairs, strict=True)),
        tuple(pairs),
        tuple(_in_order([w for pair in p for w in pair][:-1]) for p in pairs),
        tuple(relations) if relations is not None else ("analogy",) * len(pairs),
    )  # fmt: skip


def _parse(row: int, text: str) -> tuple[tuple[str, str], ...]:
    parts = [[w.strip() for w in side.split(":")] for side in text.strip().rstrip(".").split("=")]
    if any(len(words) != 2 or not all(words) for words in parts):
        raise ConfigError(f"row {row} is not of the form {_FORM!r}: {text!r}")
    return tuple((a, b) for a, b in parts)


def _in_order(words: Sequence[str]) -> tuple[str, ...]:
    """Each word once, by its last mention."""
    return tuple(reversed(dict.fromkeys(reversed(words))))


def check_words(model: "Model", texts: Sequence[str]) -> None:
    """Refuse a model for which the prompts are not text.

    Raises:
        ConfigError: no tokenizer, or one that knows less than half of the words.
    """
    tokenizer = model.tokenizer
    own = "hd_study reads models of text whose words the prompts are made of, such as atlas-dense"
    if tokenizer is None:
        raise ConfigError(f"{model.card.name!r} has no tokenizer; {own}")
    shown = list(texts[:50])
    ids: list[list[int]] = tokenizer(shown, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    asked = sum(map(len, ids))
    strange = sum(i == unknown for row in ids for i in row)
    if unknown is not None and 2 * strange > asked:
        raise ConfigError(
            f"the tokenizer of {model.card.name!r} does not know {strange} of {asked} words of the "
            f"prompts, such as {shown[0]!r}: it is no model of this text. {own}; or give prompts= "
            "in its own words"
        )
