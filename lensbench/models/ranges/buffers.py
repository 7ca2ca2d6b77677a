"""Keys and values in room set aside once: writing copies, cropping moves a number.

transformers appends keys with a copy of all earlier ones and crops every layer to one length. While
a draft is checked, blocks below the exit hold more tokens than those above it, so here each block
has a length of its own.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from lensbench.errors import ConfigError


class Stored(BaseException):
    """Keys and values are in their place and nothing more of the block was wanted."""


class Buffers:
    """What transformers' attention modules take for a cache: per block, room for ``room`` tokens.

    ``lengths[layer]`` says how many tokens a block holds. ``writes_only`` ends a block as soon as
    it has stored keys and values (:class:`Stored`), which is all that a token passed over needs.
    """

    is_compileable = False

    def __init__(self, n_layers: int, room: int) -> None:
        self.room = room
        self.lengths = [0] * n_layers
        self.writes_only = False
        self._keys: list[Tensor | None] = [None] * n_layers
        self._values: list[Tensor | None] = [None] * n_layers

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values behind those of the block; give all of them (views)."""
        start = self.lengths[layer_idx]
        end = start + keys.shape[-2]
        kept, held = self._keys[layer_idx], self._values[layer_idx]
        if kept is None or held is None:
            kept = self._keys[layer_idx] = _room(keys, self.room)
            held = self._values[layer_idx] = _room(values, self.room)
        kept[..., start:end, :] = keys
        held[..., start:end, :] = values
        self.lengths[layer_idx] = end
        if self.writes_only:
            raise Stored
        return kept[..., :end, :], held[..., :end, :]

    def crop(self, length: int, layers: Iterable[int]) -> None:
        """Forget all tokens of these blocks from position ``length`` on."""
        for layer in layers:
            self.lengths[layer] = min(self.lengths[layer], length)

    def put(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Let a block hold exactly these tokens."""
        if keys.shape[-2] > self.room:
            raise ConfigError(f"{keys.shape[-2]} tokens do not fit into room for {self.room}")
        self.lengths[layer] = 0
        spared, self.writes_only = self.writes_only, False
        self.update(keys, values, layer)
        self.writes_only = spared

    def held(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values ``[rows, heads, tokens, d]`` of a block; None before the first."""
        kept, held = self._keys[layer], self._values[layer]
        if kept is None or held is None:
            return None
        end = self.lengths[layer]
        return kept[..., :end, :], held[..., :end, :]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that a block holds."""
        return self.lengths[layer_idx]

    def bytes_held(self) -> int:
        """Bytes of the keys and values that are in use."""
        pairs = [self.held(layer) for layer in range(len(self.lengths))]
        return sum(t.numel() * t.element_size() for pair in pairs if pair for t in pair)


def _room(like: Tensor, room: int) -> Tensor:
    return like.new_empty(*like.shape[:-2], room, like.shape[-1])
