"""What the tasks ask of a tokenizer: ids with offsets, the next token of a word, which words fit.

1. Encode a text with offsets, after the BOS where the tokenizer has one.
2. A slot's position is the last token that holds one of its characters.
3. The token of an answer is the first that differs when the answer follows the prompt; a prompt
   whose own tokens change when it is continued has no such token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lensbench.chat import covering
from lensbench.chat_text import tokenizer_of
from lensbench.errors import ConfigError
from lensbench.prompts.wording import Filled


@dataclass(frozen=True)
class Encoded:
    """Ids of a prompt and the (start, end) characters of each token (empty for the BOS)."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    def last_of(self, span: tuple[int, int]) -> int | None:
        """Position of the last token that holds a character of ``span``."""
        held = [i for i, (a, b) in enumerate(self.offsets) if a < span[1] and b > span[0]]
        return held[-1] if held else None


class Encoder:
    """A tokenizer seen by the tasks."""

    def __init__(self, model_or_tokenizer: Any) -> None:
        self.tokenizer: Any = tokenizer_of(model_or_tokenizer)
        if not getattr(self.tokenizer, "is_fast", False):
            raise ConfigError(
                f"{type(self.tokenizer).__name__} gives no character offsets, so positions cannot "
                "be found; load the fast tokenizer of this model (with a tokenizer.json)"
            )
        self._bos = self.tokenizer.bos_token_id

    @cached_property
    def vocab(self) -> Mapping[str, int]:
        """Token to id."""
        return self.tokenizer.get_vocab()

    @cached_property
    def is_atlas(self) -> bool:
        """Is this the tokenizer of the bundled world, whose model knows its wordings only?"""
        from lensbench.worlds.atlas import lexicon

        return lexicon.all_words() <= self.vocab.keys()

    @cached_property
    def spaced(self) -> bool:
        """Does punctuation need a space of its own (``park ,``)?"""
        return self.unknown("the,") and not self.unknown("the ,")

    def ids(self, text: str) -> tuple[int, ...]:
        """Ids of a text without BOS."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def unknown(self, text: str) -> bool:
        """Does the text hold a word that the tokenizer has no token for?"""
        return self.tokenizer.unk_token_id in self.ids(text)

    def encode(self, text: str, *, bos: bool = True) -> Encoded:
        """Ids and offsets (step 1)."""
        found = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = tuple(found["input_ids"]), tuple(covering(found["offset_mapping"]))
        if bos and self._bos is not None:
            return Encoded((self._bos, *ids), ((0, 0), *offsets))
        return Encoded(ids, offsets)

    def positions(self, filled: Filled, encoded: Encoded) -> dict[str, int]:
        """Last token of every slot (step 2)."""
        found = {name: encoded.last_of(span) for name, span in filled.spans.items()}
        return {name: p for name, p in found.items() if p is not None}

    def after(self, prompt: str, word: str) -> tuple[int, ...] | None:
        """Ids that follow ``prompt`` when ``word`` does; None where the prompt's own ids change."""
        before, whole = self.ids(prompt), self.ids(f"{prompt}{word}")
        if self.tokenizer.unk_token_id in whole or whole[: len(before)] != before:
            return None
        return whole[len(before) :] or None

    def length(self, word: str) -> int:
        """Tokens of a word in the middle of a sentence; 0 for one that the tokenizer has not."""
        found = self.after(word, f" {word}")
        return len(found) if found else 0

    def single(self, words: Iterable[str]) -> tuple[str, ...]:
        """The words that are one token, no two the same one."""
        out: dict[tuple[int, ...], str] = {}
        for word in words:
            found = self.after(word, f" {word}")
            if found and len(found) == 1:
                out.setdefault(found, word)
        return tuple(out.values())

    def shown(self, ids: Sequence[int]) -> str:
        """Tokens as text for messages: ``'When'|' Mary'``."""
        from lensbench.tokens import token_texts

        return "|".join(map(repr, token_texts(self.tokenizer, ids)))
