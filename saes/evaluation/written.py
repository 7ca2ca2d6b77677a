"""What a dictionary writes, its skip connection included."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lensbench.protocols import Codec


def written(
    codec: Codec, acts: Float[Tensor, "tokens d_sae"], x: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "tokens d_out"]:
    """``decode(acts)``, and ``skip(x)`` where the codec has a skip connection.

    ``decode`` of a transcoder is its sparse part alone, so what it read is needed once more.
    """
    sparse = codec.decode(acts)
    skip: Any = getattr(codec, "skip", None)
    return sparse if skip is None else sparse + skip(x)
