"""Token batches: ids with a mask and positions that are always ours, never guessed later.

A ragged list is padded on the left; a rectangular one has no padding (what looks like padding is
refused where the tokenizer is known, see :mod:`lensbench.padding`). Positions count real tokens, so
they do not depend on the padding side.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lensbench.arguments import whole
from lensbench.errors import ConfigError

TokensLike: TypeAlias = "Tokens | Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]]"
_FORMS = "token ids must be Tokens, an integer array [batch, pos], a list of ids or a list of lists"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of a batch, the mask of real tokens, and ids for a decoder where there is one."""

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"] | None = None
    decoder_ids: Int[Tensor, "batch pos_d"] | None = None

    @property
    def n_rows(self) -> int:
        """Number of sequences."""
        return self.ids.shape[0]

    @property
    def n_pos(self) -> int:
        """Padded length."""
        return self.ids.shape[1]

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """True at real tokens."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask

    def positions(self) -> Int[Tensor, "batch pos"]:
        """Index of each token among the real tokens of its row; 0 under the padding."""
        return (self.real.long().cumsum(1) - 1).clamp_min(0)

    def to(self, device: torch.device | str) -> "Tokens":
        """The same batch on another device."""
        move = lambda t: None if t is None else t.to(device)  # noqa: E731 - one use, one line
        return Tokens(self.ids.to(device), move(self.mask), move(self.decoder_ids))


def as_tokens(tokens: TokensLike, *, pad_id: int | None = None) -> Tokens:
    """Read ids in any usual form.

    Accepts a :class:`Tokens`, an integer tensor or array ``[pos]`` or ``[batch pos]``, a list of
    ids, or a list of lists (padded on the left when lengths differ).

    Raises:
        ConfigError: empty input, non-integer ids, or more than two axes.
    """
    if isinstance(tokens, Tokens):
        return _checked(tokens)
    if isinstance(tokens, np.ndarray) and tokens.dtype.kind not in "iu":
        raise ConfigError(f"token ids must be integers, got {tokens.dtype}")
    if isinstance(tokens, (Tensor, np.ndarray)):
        return _from_array(torch.as_tensor(tokens))
    if isinstance(tokens, str):
        raise ConfigError("got text where token ids belong; use model.tokens(text)")
    rows = [_ids(number, row) for number, row in enumerate(_as_rows(tokens))]
    if not rows or any(len(row) == 0 for row in rows):
        raise ConfigError("got an empty sequence of tokens; each row needs at least one id")
    width = max(len(row) for row in rows)
    if all(len(row) == width for row in rows):
        return _from_array(torch.tensor(rows))
    fill = 0 if pad_id is None else pad_id
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return Tokens(ids, mask)


def meant(ids: Sequence[int]) -> Tokens:
    """One row whose ids are all text, whatever they look like.

    A model may write its padding token, and words it does not know may be one: text that lensbench
    made itself says so with its mask, so that nothing of it is taken for padding.
    """
    row = torch.tensor([[int(i) for i in ids]])
    return Tokens(row, torch.ones_like(row, dtype=torch.bool))


def _as_rows(tokens: Any) -> list[Any]:
    if isinstance(tokens, Mapping):
        names: list[str] = [str(name) for name in tokens]
        raise ConfigError(f"{_FORMS}; got a mapping of {names}: pass its ids, with Tokens its mask")
    if not isinstance(tokens, Iterable) or isinstance(tokens, bytes):
        raise ConfigError(f"{_FORMS}; got {tokens!r}")
    rows: list[Any] = list(tokens)  # pyright: ignore[reportUnknownArgumentType] - checked below
    flat = bool(rows) and not isinstance(rows[0], str | Iterable)
    return [rows] if flat or (rows and getattr(rows[0], "ndim", 1) == 0) else rows


def _ids(number: int, row: Any) -> list[int]:
    """One row as ints; whatever is no token id is named."""
    if isinstance(row, str):
        raise ConfigError(
            f"row {number} is text, {row!r}, where token ids belong; use model.tokens(texts)"
        )
    rule = f"row {number} must be whole numbers, the ids of tokens"
    if not isinstance(row, Iterable):
        raise ConfigError(f"{rule}; got {row!r}")
    given: list[Any] = list(row)  # pyright: ignore[reportUnknownArgumentType] - checked below
    found = [whole(value) for value in given]
    for value, one in zip(given, found, strict=True):
        if one is None:
            raise ConfigError(f"{rule}; got {value!r}")
    return [one for one in found if one is not None]


def texts_of(text: Any) -> list[str]:
    """The strings of one text, or of many.

    Raises:
        ConfigError: what is no string.
    """
    if isinstance(text, str):
        return [text]
    rule = "text must be a string or a list of strings"
    if not isinstance(text, Iterable) or isinstance(text, bytes):
        raise ConfigError(f"{rule}; got {text!r}")
    texts: list[Any] = list(text)  # pyright: ignore[reportUnknownArgumentType] - checked below
    for one in texts:
        if not isinstance(one, str):
            raise ConfigError(f"{rule}; got {one!r}")
    return texts


def _from_array(ids: Tensor) -> Tokens:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ConfigError(f"token ids must be integers, got {ids.dtype}")
    ids = ids.long()
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.numel() == 0:
        raise ConfigError(
            f"token ids must have shape [batch, pos] and not be empty, got {list(ids.shape)}"
        )
    return Tokens(ids)


def _checked(tokens: Tokens) -> Tokens:
    if tokens.mask is None:
        return tokens
    if tokens.mask.shape != tokens.ids.shape:
        raise ConfigError(
            f"mask has shape {list(tokens.mask.shape)} but ids {list(tokens.ids.shape)}"
        )
    mask = tokens.mask.bool()
    if not bool(mask.any(1).all()):
        raise ConfigError("a row of the mask is False everywhere; each row needs a real token")
    return Tokens(tokens.ids, mask, tokens.decoder_ids)


def surrogate_fault(text: str) -> str | None:
    """What to say of a text with half of a surrogate pair, which no tokenizer takes; else None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"holds half of a surrogate pair, {text[error.start]!a} at character "
            f"{error.start}: no character, and often the trace of text cut in two. Repair with "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        )
    return None


def refuse_surrogates(text: str, what: str) -> None:
    """Refuse text that is no Unicode text; ``what`` names it.

    Raises:
        ConfigError: half of a surrogate pair, with its place and the cure.
    """
    if fault := surrogate_fault(text):
        raise ConfigError(f"{what} {fault}")


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each id as text of its own, its leading space kept; ``#17`` where there is no tokenizer.

    Decoding one id alone would not do: SentencePiece decoders drop a leading space. Byte-level
    pieces that are no whole character show as the replacement character.
    """
    if tokenizer is None:
        return [f"#{i}" for i in ids]
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens([int(i) for i in ids])]
    if tokenizer.convert_tokens_to_string(["Ġ"]) == " ":  # byte-level: decoding a piece is exact
        special = set(tokenizer.all_special_tokens)
        return [p if p in special else tokenizer.convert_tokens_to_string([p]) for p in pieces]
    return [piece.replace("▁", " ").replace("<0x0A>", "\n") for piece in pieces]


def unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """Words of a text that the vocabulary lacks, each once, in order: all become one token.

    None for a tokenizer that spells every word. One without offsets cannot say which word it was;
    then it is called ``word 3``, counted in tokens from 1.

    Example:
        >>> unknown_words(model.tokenizer, "The capital of Atlantis is")
        ('Atlantis',)
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if tokenizer is None or unknown is None:
        return ()
    fast = bool(getattr(tokenizer, "is_fast", False))
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast)
    places = [i for i, one in enumerate(read["input_ids"]) if one == unknown]
    if not fast:
        return tuple(f"word {i + 1}" for i in places)
    spans = [read["offset_mapping"][i] for i in places]
    written = tokenizer.unk_token
    words = (text[start:end].strip() for start, end in spans)
    return tuple(dict.fromkeys(word for word in words if word != written))
