"""A dictionary whose code is not ours to rewrite: called as it is, behind the same protocol."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.sites import canonical_name


class WrappedSAE:
    """A :class:`lensbench.protocols.Codec` around a dictionary of SAELens.

    Latents may be negative (AbsTopK) or found by several steps per token (matching pursuit).
    """

    def __init__(self, inner: Any, metadata: dict[str, Any]) -> None:
        self.inner, self.metadata = inner, metadata
        self.config: dict[str, Any] = {}
        self.activation: str = str(metadata.get("architecture", ""))

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self.inner.cfg.d_sae)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return int(self.inner.cfg.d_in)

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_model"]:
        """Decoder rows."""
        return self.inner.W_dec.detach()

    @property
    def b_dec(self) -> Float[Tensor, " d_model"]:
        """Decoder bias."""
        return self.inner.b_dec.detach()

    @property
    def site(self) -> str | None:
        """Site the dictionary was trained on, if known."""
        site = self.metadata.get("site")
        return canonical_name(str(site)) if site else None

    def encode(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents of activations, dense."""
        return self.inner.encode(x.to(self.inner.dtype))

    def decode(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_model"]:
        """Activations from latents."""
        return self.inner.decode(acts.to(self.inner.dtype))

    def __call__(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_model"]:
        """Reconstruction of ``x``."""
        return self.decode(self.encode(x))

    def to(self, device: torch.device | str) -> "WrappedSAE":
        """The same dictionary on another device (its weights move)."""
        return WrappedSAE(self.inner.to(device=str(device)), self.metadata)

    def state_dict(self) -> dict[str, Any]:
        """Weights and settings that decide the codes."""
        told = {
            k: v for k, v in self.inner.cfg.to_dict().items() if k not in ("metadata", "device")
        }
        return {**self.inner.state_dict(), "settings": repr(sorted(told.items()))}
