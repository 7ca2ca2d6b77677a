"""The words language: spelling is easy, the choice of the next word is not, and both are known.

1. Distinct random words of some symbols; a separator ends each. A document is BOS and words.
2. The first word is uniform. Every word has three successors, of probability .7, .2 and .1.
3. Each of the three maps word -> successor is a permutation, the first one a single cycle through
   all words. So the uniform distribution is stationary, and the most probable continuation of any
   text visits every word before it repeats one: a model that decodes greedily need not loop.

Within a word the next symbol is nearly always determined; at the start of a word it is not. What
is known at every position: the exact distribution of the next symbol (the visible prefix names the
word before, so only the successors that agree with it are left). In the long run

    entropy per symbol = H(.7, .2, .1) / (mean word length + 1) nats.

Sequences can be cut anywhere: documents have no end of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench import io
from lensbench.errors import ConfigError
from lensbench.worlds.atlas.tokenizer import SPECIALS, save_tokenizer

BOS = SPECIALS.index("[BOS]")
SEPARATOR = len(SPECIALS)
_SYMBOLS = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, eq=False)
class NextSymbol:
    """What the language says about the symbol after each token of one text."""

    probs: Float[np.ndarray, "tokens d_vocab"]
    """Exact distribution of the next symbol; NaN from the first token that cannot be on."""

    @property
    def possible(self) -> Bool[np.ndarray, " tokens"]:
        """Can the text up to here be a text of the language?"""
        return ~np.isnan(self.probs[:, 0])

    @property
    def determined(self) -> Bool[np.ndarray, " tokens"]:
        """Is only one next symbol possible?"""
        return (self.probs > 0).sum(-1) == 1

    @property
    def best(self) -> Int[np.ndarray, " tokens"]:
        """The most probable next symbol (Bayes-optimal); -1 where the text is not possible."""
        return np.where(self.possible, np.nan_to_num(self.probs).argmax(-1), -1)

    @property
    def entropy(self) -> Float[np.ndarray, " tokens"]:
        """Entropy of the next symbol, nats."""
        logs = np.log(np.where(self.probs > 0, self.probs, 1.0))
        return np.where(self.possible, -(np.nan_to_num(self.probs) * logs).sum(-1), np.nan)


class Words:
    """A language of random words; ``seed`` makes words and successors.

    Raises:
        ConfigError: sizes that no language has.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        n_words: int = 48,
        shortest: int = 5,
        longest: int = 9,
        n_symbols: int = 35,
        choice: tuple[float, ...] = (0.7, 0.2, 0.1),
    ) -> None:
        _check(n_words, shortest, longest, n_symbols, choice)
        self.seed, self.choice = seed, choice
        rng = Random(f"words|{seed}|{n_words}|{shortest}|{longest}|{n_symbols}")
        letters = range(SEPARATOR + 1, SEPARATOR + 1 + n_symbols)
        self.vocab = (*SPECIALS, "/", *_SYMBOLS[:n_symbols])
        spelt: dict[tuple[int, ...], None] = {}
        while len(spelt) < n_words:
            spelt[tuple(rng.choices(letters, k=rng.randint(shortest, longest)))] = None
        self.words = tuple(spelt)
        """Spellings as symbol ids, without the separator."""
        self.successors = _successors(n_words, len(choice), rng)
        """int [n_words, choices]: what may follow each word, in the order of ``choice``."""

    def __repr__(self) -> str:
        """Seed and sizes in one line."""
        return f"Words(seed={self.seed}: {len(self.words)} words, {len(self.vocab)} symbols)"

    @property
    def d_vocab(self) -> int:
        """Symbols, separator and special tokens."""
        return len(self.vocab)

    @cached_property
    def entropy_per_word(self) -> float:
        """Entropy of the choice of a successor, nats."""
        return float(-sum(p * np.log(p) for p in self.choice))

    @cached_property
    def entropy_per_symbol(self) -> float:
        """Entropy rate, nats per symbol (separators count): that of a word over its mean length."""
        return self.entropy_per_word / float(np.mean([len(word) + 1 for word in self.words]))

    def document(self, width: int, rng: Random) -> list[int]:
        """BOS and ``width - 1`` symbols, cut wherever that is."""
        return self.spoken(width, rng)[0]

    def spoken(self, width: int, rng: Random) -> tuple[list[int], list[int]]:
        """A document and its words, as indices into ``words``; the last one may be cut off."""
        ids, words = [BOS], [rng.randrange(len(self.words))]
        while True:
            ids += (*self.words[words[-1]], SEPARATOR)
            if len(ids) >= width:
                return ids[:width], words
            words.append(int(rng.choices(self.successors[words[-1]], self.choice)[0]))

    def next_symbol(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> NextSymbol:
        """The exact distribution of the symbol after every token of a text that starts with BOS.

        Raises:
            ConfigError: no BOS in front, or an id that is no symbol.
        """
        text = [int(i) for i in ids]
        if not text or text[0] != BOS or not all(0 <= i < self.d_vocab for i in text):
            raise ConfigError(
                f"a text is BOS ({BOS}) and ids below {self.d_vocab}, got {text[:8]} ..."
            )
        probs = np.full((len(text), self.d_vocab), np.nan)
        for row, left in zip(probs, self._left(text), strict=False):
            row[:] = 0.0
            for word, at, p in left:
                row[(*self.words[word], SEPARATOR)[at]] += p
        return NextSymbol(probs)

    def _left(self, text: list[int]) -> Iterator[list[tuple[int, int, float]]]:
        """After each token: (word, symbols of it seen, posterior); ends where nothing is left."""
        n = len(self.words)
        left = [(word, 0, 1 / n) for word in range(n)]
        yield left
        for symbol in text[1:]:
            agree = [
                (w, at + 1, p) for w, at, p in left if (*self.words[w], SEPARATOR)[at] == symbol
            ]
            if not agree:
                return
            if symbol == SEPARATOR:  # words are distinct: one is left
                ((word, _, _),) = agree
                agree = [
                    (int(w), 0, p) for w, p in zip(self.successors[word], self.choice, strict=True)
                ]
            total = sum(p for _, _, p in agree)
            left = [(w, at, p / total) for w, at, p in agree]
            yield left

    def continued(self, ids: Sequence[int], n: int) -> list[int]:
        """``n`` symbols after a text, each the most probable one (ties: the lowest id).

        Raises:
            ConfigError: a text that the language cannot have said.
        """
        text = [int(i) for i in ids]
        for _ in range(n):
            best = int(self.next_symbol(text).best[-1])
            if best < 0:
                raise ConfigError("the text is none of this language, so nothing continues it")
            text.append(best)
        return text[len(ids) :]

    def save_tokenizer(self, folder: str | Path) -> Path:
        """Write a ``tokenizer.json`` whose words are the symbols: text is ``a c b / q ...``."""
        folder = save_tokenizer(self.vocab, Path(folder))
        path = folder / "tokenizer_config.json"
        io.write_json(path, {**io.read_json(path), "model_max_length": 1_000_000})
        return folder


def _successors(n: int, choices: int, rng: Random) -> Int[np.ndarray, "words choices"]:
    """Permutations that never agree at a word; the first is one cycle through all words."""
    order = rng.sample(range(n), n)
    found = [dict(zip(order, order[1:] + order[:1], strict=True))]
    while len(found) < choices:
        mapped = dict(enumerate(rng.sample(range(n), n)))
        if all(mapped[w] != other[w] for other in found for w in range(n)):
            found.append(mapped)
    return np.array([[mapped[w] for mapped in found] for w in range(n)])


def _check(
    n_words: int, shortest: int, longest: int, n_symbols: int, choice: tuple[float, ...]
) -> None:
    if not 1 <= n_symbols <= len(_SYMBOLS) or not 1 <= shortest <= longest:
        raise ConfigError(
            f"words of {shortest} to {longest} of {n_symbols} symbols: lengths must rise from 1, "
            f"symbols lie in 1..{len(_SYMBOLS)}"
        )
    if not all(p > 0 for p in choice) or abs(sum(choice) - 1) > 1e-9:
        raise ConfigError(f"choice must be positive probabilities that sum to 1, got {choice}")
    possible = sum(n_symbols**k for k in range(shortest, longest + 1))
    if not len(choice) + 1 <= n_words <= possible // 2:
        raise ConfigError(
            f"n_words must lie in {len(choice) + 1}..{possible // 2} for these words, got {n_words}"
        )
