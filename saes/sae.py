"""A trained dictionary as a frozen value: encode, decode, nothing else.

Training lives in :mod:`lensbench.saes.training.trainer`; files in :mod:`lensbench.saes.formats`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.saes.coder import SparseCoder


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SAE(SparseCoder):
    """Sparse autoencoder: ``x_hat = f((x - b_dec) @ W_enc + b_enc) @ W_dec + b_dec``.

    ``f`` is one of: ``topk`` (the k largest, negative ones set to zero), ``relu``, ``threshold``
    (``z`` where ``z > threshold``, else 0; what BatchTopK uses after training).
    Activations and latents may have any leading axes: ``[batch, pos, d_model]`` as well as
    ``[tokens, d_model]`` or one vector.
    Implements :class:`lensbench.protocols.Codec`.

    Example:
        >>> acts = sae.encode(x)
        >>> back = sae.decode(acts)
        >>> list(acts.shape)
        [1000, 64]
    """

    role: ClassVar[str] = "sae"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """It writes what it reads."""
        wide = {"W_dec": (self.d_sae, self.d_in), "b_dec": (self.d_in,)}
        return super()._shapes() | wide

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.d_in

    def _pre(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)
