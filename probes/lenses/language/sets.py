"""The tokens a word can begin with: what counts as "the model says this word in this language"."""

from functools import lru_cache
from typing import Any

from lensbench.errors import ConfigError

_BYTE = "<0x"


def word_tokens(tokenizer: Any, word: str) -> frozenset[int]:
    """Ids of every token that begins ``word``, with or without a space before it.

    A token counts where its bytes are a prefix of the word's UTF-8 bytes, so the first byte of a
    Chinese character counts where the tokenizer falls back to bytes; a lone byte of an ASCII letter
    does not (it has a piece of its own), and a space alone does not. A word-level tokenizer cannot
    go on after a prefix: there the whole word counts.
    Source: Wendler et al. 2024, arXiv:2402.10588.

    Raises:
        ConfigError: no tokenizer, or an empty word.

    Example:
        >>> ids = probes.word_tokens(model.tokenizer, "Lima")
    """
    if tokenizer is None:
        raise ConfigError("words need a tokenizer; pass each word's token ids instead")
    if not word.strip():
        raise ConfigError(f"a word must have letters, got {word!r}")
    plain = word.strip().encode()
    spaced = b" " + plain
    pieces = _pieces(tokenizer)
    if _whole_words(tokenizer):
        return frozenset(i for i, piece in pieces if piece in (plain, spaced))
    return frozenset(
        i
        for i, piece in pieces
        if plain.startswith(piece) or (len(piece) > 1 and spaced.startswith(piece))
    )


@lru_cache(maxsize=8)
def _pieces(tokenizer: Any) -> tuple[tuple[int, bytes], ...]:
    """Every token that stands for text, with its bytes."""
    special: set[int] = {int(i) for i in tokenizer.all_special_ids}
    names: dict[str, int] = tokenizer.get_vocab()
    levels = _byte_letters() if tokenizer.convert_tokens_to_string(["Ġ"]) == " " else None
    found: list[tuple[int, bytes]] = []
    for name, i in sorted(names.items(), key=lambda pair: pair[1]):
        piece = _bytes_of(name, levels)
        if i not in special and piece:
            found.append((i, piece))
    return tuple(found)


def _bytes_of(name: str, levels: dict[str, int] | None) -> bytes:
    if levels is not None:
        return bytes(levels[c] for c in name) if all(c in levels for c in name) else b""
    if len(name) == 6 and name.startswith(_BYTE) and name.endswith(">"):
        value = int(name[3:5], 16)
        return bytes([value]) if value >= 0x80 else b""  # ASCII has pieces of its own
    return name.replace("▁", " ").encode()


def _byte_letters() -> dict[str, int]:
    """Byte-level tokenizers write printable bytes as themselves, others from code point 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _whole_words(tokenizer: Any) -> bool:
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return type(model).__name__ == "WordLevel"
