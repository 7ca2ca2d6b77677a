"""Random dictionaries of tiny models, for tests of spliced sites."""

from typing import Any

import torch
from torch import Tensor


def random_sae(site: str, d: int = 32, width: int = 64, *, seed: int = 0, **changes: Any) -> Any:
    """A TopK dictionary (k = 5) with nothing left at its default."""
    from lensbench.saes.sae import SAE

    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=rng)

    fields: dict[str, Any] = {
        "W_enc": draw(d, width),
        "b_enc": draw(width),
        "W_dec": draw(width, d),
        "b_dec": draw(d),
        "activation": "topk",
        "metadata": {"site": site},
    }
    fields |= changes
    if fields["activation"] == "topk":
        fields.setdefault("k", 5)
    return SAE(**fields)
