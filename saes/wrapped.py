"""A dictionary whose code is not ours to rewrite: called as it is, behind the same protocol."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.saes.shapes import flattened, flattened_sparse, one_line, shaped
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

    def __repr__(self) -> str:
        """Name, site, kind and sizes in one line."""
        return one_line(self, self.metadata.get("name"))

    def encode(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_sae"]:
        """Latents of activations, dense; any leading axes, dtype and device.

        Raises:
            ConfigError: no tensor of floating numbers, or another width.
        """
        return shaped(self.inner.encode(flattened(x, self.d_model, "activations", self.W_dec)), x)

    def encode_sparse(
        self, x: Float[Tensor, "... d_model"]
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
        """Values and indices of the latents that are not 0, the largest in size first.

        As many columns as the busiest token of ``x`` needs; one with fewer is padded with value 0.
        """
        acts = self.encode(x)
        width = max(1, int((acts != 0).sum(-1).max())) if acts.numel() else 1
        indices = acts.abs().topk(width, -1).indices
        return acts.gather(-1, indices), indices

    def decode(self, acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_model"]:
        """Activations from latents; any leading axes, dtype and device."""
        return shaped(self.inner.decode(flattened(acts, self.d_sae, "latents", self.W_dec)), acts)

    def decode_sparse(
        self, values: Float[Tensor, "... k"], indices: Int[Tensor, "... k"]
    ) -> Float[Tensor, "... d_model"]:
        """The same as :meth:`decode` from values and indices.

        Raises:
            ConfigError: values and indices of different shapes.
        """
        flat, places = flattened_sparse(values, indices, self.W_dec)
        dense = flat.new_zeros(len(flat), self.d_sae).scatter_add(1, places, flat)
        return shaped(self.inner.decode(dense), values)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Reconstruction of ``x``."""
        return self.decode(self.encode(x))

    __call__ = forward

    def to(self, device: torch.device | str) -> "WrappedSAE":
        """The same dictionary on another device (its weights move)."""
        return WrappedSAE(self.inner.to(device=str(device)), self.metadata)

    def state_dict(self) -> dict[str, Any]:
        """Weights and settings that decide the codes."""
        told = {
            k: v for k, v in self.inner.cfg.to_dict().items() if k not in ("metadata", "device")
        }
        return {**self.inner.state_dict(), "settings": repr(sorted(told.items()))}
