"""A world of planted directions: 64 in 32 dimensions, each present with probability 3/64.

Strengths lie in [0.5, 1.5]; a constant offset and a little noise are added. The directions are
drawn from another seed than any decoder (from the same one, they would be its first rows).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

D, PLANTED, BATCH, LATENTS = 32, 64, 512, 128


def planted(seed: int = 4321) -> Tensor:
    rows = torch.randn(PLANTED, D, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def batches(truth: Tensor, n: int) -> Iterator[Tensor]:
    rng = torch.Generator().manual_seed(1)
    offset = torch.randn(D, generator=rng)
    for _ in range(n):
        on = torch.rand(BATCH, PLANTED, generator=rng) < 3 / PLANTED
        strength = torch.rand(BATCH, PLANTED, generator=rng) + 0.5
        yield (on * strength) @ truth + offset + 0.01 * torch.randn(BATCH, D, generator=rng)
