"""AdaSkip (He et al. 2025): the halves of blocks that turn the stream least are left out.

For the stream x before attention, a after it and m after the MLP of a layer, with sums over tokens:
s_attn = mean cos(x, a), s_mlp = mean cos(a, m); r_attn = |a|_F / |x|_F, r_mlp = |m|_F / |a|_F. The
2L similarities are ranked together, the K most similar halves left out, and the stream multiplied
by r in their place. (Cosines of the stream around a half, not of its input and output.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.skipping.route import Route
from lensbench.models.ranges import Sublayer


@dataclass(frozen=True, eq=False)
class HalfSimilarity:
    """Similarity and ratio of the stream around every half of a block, ``[2, layers]``.

    Row 0 is attention, row 1 the MLP.
    """

    similarity: Float[np.ndarray, "2 layers"]
    ratio: Float[np.ndarray, "2 layers"]

    def ranked(self) -> list[tuple[Sublayer, float]]:
        """Halves from the most similar down."""
        halves: list[Sublayer] = [
            (half, layer) for half in ("attn", "mlp") for layer in range(self.similarity.shape[1])
        ]
        values = self.similarity.reshape(-1)
        order = np.argsort(-values, kind="stable")
        return [(halves[i], float(values[i])) for i in order]


def half_similarity(
    before: Float[Tensor, "layers tokens d_model"],
    between: Float[Tensor, "layers tokens d_model"],
    after: Float[Tensor, "layers tokens d_model"],
) -> HalfSimilarity:
    """Similarities and ratios from ``resid_pre``, ``resid_mid`` and ``resid_post`` of all layers.

    Raises:
        ConfigError: shapes that differ, no token, or states that are not finite.

    Example:
        >>> x = torch.randn(6, 20, 16)  # before attention, between, and after the MLP
        >>> found = acceleration.half_similarity(x, x + 0.1, x + 0.2 * torch.randn(6, 20, 16))
    """
    if not before.shape == between.shape == after.shape or before.ndim != 3 or not before.numel():
        shapes = [list(x.shape) for x in (before, between, after)]
        raise ConfigError(f"the three states must be [layers, tokens, d_model] alike, got {shapes}")
    if not all(bool(torch.isfinite(x).all()) for x in (before, between, after)):
        raise ConfigError("states hold values that are not finite (NaN or infinity)")
    pairs = ((before.double(), between.double()), (between.double(), after.double()))
    cosine = [torch.cosine_similarity(a, b, dim=-1, eps=1e-8).mean(1) for a, b in pairs]
    ratio = [b.flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) for a, b in pairs]
    return HalfSimilarity(torch.stack(cosine).numpy(), torch.stack(ratio).numpy())


def adaskip_route(found: HalfSimilarity, skip: int, *, scaled: bool = True) -> Route:
    """The whole model without the ``skip`` most similar halves, the stream scaled in their place.

    Raises:
        ConfigError: more halves than there are.

    Example:
        >>> x = torch.randn(6, 20, 16)
        >>> found = acceleration.half_similarity(x, x + 0.1, x + 0.2 * torch.randn(6, 20, 16))
        >>> route = acceleration.adaskip_route(found, skip=2)
    """
    n_layers = found.similarity.shape[1]
    count = whole_number("skip", skip, least=1)
    if count > 2 * n_layers:
        raise ConfigError(f"{n_layers} layers have {2 * n_layers} halves, got skip={count}")
    gone = [half for half, _ in found.ranked()[:count]]
    factors: Mapping[Sublayer, float] = (
        {(h, i): float(found.ratio[int(h == "mlp"), i]) for h, i in gone} if scaled else {}
    )
    return Route(tuple(range(n_layers)), frozenset(gone), factors)
