"""Token batches: ids with a mask and positions that are always ours, never guessed later.

A ragged list is padded on the left; a rectangular one has no padding (what looks like padding is
refused where the tokenizer is known, see :mod:`lensbench.padding`). Positions count real tokens, so
they do not depend on the padding side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lensbench.errors import ConfigError

TokensLike: TypeAlias = "Tokens | Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]]"


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
    if isinstance(tokens, (Tensor, np.ndarray)):
        return _from_array(torch.as_tensor(tokens))
    if isinstance(tokens, str):
        raise ConfigError("got text where token ids belong; use model.tokens(text)")
    rows = [[int(i) for i in row] for row in _as_rows(tokens)]
    if not rows or any(len(row) == 0 for row in rows):
        raise ConfigError("got an empty sequence of tokens; each row needs at least one id")
    width = max(len(row) for row in rows)
    if all(len(row) == width for row in rows):
        return _from_array(torch.tensor(rows))
    fill = 0 if pad_id is None else pad_id
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return Tokens(ids, mask)


def _as_rows(tokens: Sequence[int] | Sequence[Sequence[int]]) -> list[Sequence[int]]:
    if len(tokens) and isinstance(tokens[0], (int, np.integer)):
        return [tokens]  # pyright: ignore[reportReturnType] - one row of ids
    return list(tokens)  # pyright: ignore[reportReturnType] - rows of ids


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
