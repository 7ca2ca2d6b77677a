"""What a runner really ran, counted: tokens times blocks, heads, keys stored without a block."""

from dataclasses import dataclass, field

from torch import Tensor

from lensbench.models.ranges.omission import Sublayer


@dataclass
class Counts:
    """Counters of one run; all count rows times tokens."""

    attention: int = 0
    """Attention sublayers run."""
    mlp: int = 0
    """MLP sublayers run."""
    heads: int = 0
    """States unembedded."""
    filled: int = 0
    """Keys and values stored without the rest of their block."""
    calls: int = 0
    """Blocks called one after another, whatever number of tokens each took (serial depth)."""
    attended: int = 0
    """Pairs of query and key over which attention ran."""
    by_layer: dict[int, int] = field(default_factory=dict[int, int])
    """Tokens that ran through each block, in whole or in part."""

    @property
    def layer_tokens(self) -> float:
        """Whole blocks times tokens; half a block counts one half."""
        return (self.attention + self.mlp) / 2

    def ran(self, h: Tensor, first: int, last: int, omitted: frozenset[Sublayer], at: int) -> None:
        """Count one call of blocks ``first .. last - 1`` on the tokens of ``h``."""
        tokens = h.shape[0] * h.shape[1]
        pairs = h.shape[0] * sum(range(at + 1, at + h.shape[1] + 1))
        for layer in range(first, last):
            attn, mlp = ("attn", layer) not in omitted, ("mlp", layer) not in omitted
            self.attention += tokens * attn
            self.mlp += tokens * mlp
            self.attended += pairs * attn
            self.calls += attn or mlp
            if attn or mlp:
                self.by_layer[layer] = self.by_layer.get(layer, 0) + tokens
