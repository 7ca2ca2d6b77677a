"""A trained dictionary as a frozen value: encode, decode, nothing else.

Training lives in :mod:`lensbench.saes.training.trainer`; files in :mod:`lensbench.saes.formats`.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.saes.step.selection import top_k

Activation = Literal["topk", "relu", "threshold"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SAE:
    """Sparse autoencoder: ``x_hat = f((x - b_dec) @ W_enc + b_enc) @ W_dec + b_dec``.

    ``f`` is one of: ``topk`` (the k largest, negative ones set to zero), ``relu``, ``threshold``
    (``z`` where ``z > threshold``, else 0; what BatchTopK uses after training).
    Implements :class:`lensbench.protocols.Codec`.
    """

    W_enc: Float[Tensor, "d_model d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_model"]
    b_dec: Float[Tensor, " d_model"]
    activation: Activation
    k: int | None = None
    threshold: Float[Tensor, " d_sae"] | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """The config it was trained with; empty for a dictionary of others."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """Where it belongs: site, model card, tokens trained on, source format."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        d_model, d_sae = self.W_enc.shape
        shapes = {
            "b_enc": (self.b_enc, (d_sae,)),
            "W_dec": (self.W_dec, (d_sae, d_model)),
            "b_dec": (self.b_dec, (d_model,)),
        }
        if self.threshold is not None:
            shapes["threshold"] = (self.threshold, (d_sae,))
        for name, (tensor, shape) in shapes.items():
            if tuple(tensor.shape) != shape:
                raise ConfigError(
                    f"{name} has shape {tuple(tensor.shape)}; with W_enc [{d_model}, {d_sae}] it "
                    f"must be {shape}"
                )
        if self.activation == "topk" and not (self.k and 0 < self.k <= d_sae):
            raise ConfigError(f"k must be in 1..d_sae={d_sae}, got {self.k}")
        if self.activation == "threshold" and self.threshold is None:
            raise ConfigError("activation 'threshold' needs a threshold per latent")

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_enc.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.W_dec.device

    @property
    def site(self) -> str | None:
        """Site the dictionary was trained on, if known."""
        return self.metadata.get("site") or self.config.get("site")

    def pre_activations(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """``(x - b_dec) @ W_enc + b_enc``."""
        return torch.addmm(self.b_enc, x.to(self.W_enc.dtype) - self.b_dec, self.W_enc)

    def encode(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        """Latents of activations, dense; never negative."""
        z = self.pre_activations(x)
        if self.activation == "topk":
            values, indices = top_k(z, self._k)
            return torch.zeros_like(z).scatter_(1, indices, values.relu())
        if self.activation == "threshold":
            return z.relu() * (z > self._threshold)
        return z.relu()

    def encode_sparse(
        self, x: Float[Tensor, "tokens d_model"]
    ) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """Values and indices of the latents that fire.

        TopK has ``k`` columns; the others as many as the busiest token of ``x`` needs, and a token
        with fewer is padded with value 0.
        """
        if self.activation == "topk":
            values, indices = top_k(self.pre_activations(x), self._k)
            return values.relu(), indices
        acts = self.encode(x)
        width = max(1, int((acts > 0).sum(1).max())) if len(acts) else 1
        return top_k(acts, width)

    def decode(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_model"]:
        """``acts @ W_dec + b_dec``."""
        return torch.addmm(self.b_dec, acts.to(self.W_dec.dtype), self.W_dec)

    def decode_sparse(
        self, values: Float[Tensor, "tokens k"], indices: Int[Tensor, "tokens k"]
    ) -> Float[Tensor, "tokens d_model"]:
        """The same as :meth:`decode` from values and indices, without the dense latents."""
        summed = torch.nn.functional.embedding_bag(
            indices, self.W_dec, per_sample_weights=values.to(self.W_dec.dtype), mode="sum"
        )
        return summed + self.b_dec

    def forward(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_model"]:
        """Reconstruction of ``x``."""
        if self.activation == "topk":
            return self.decode_sparse(*self.encode_sparse(x))
        return self.decode(self.encode(x))

    __call__ = forward

    def to(self, device: torch.device | str) -> "SAE":
        """A copy on another device."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        moved = {n: t.to(device) for n in names if (t := getattr(self, n)) is not None}
        return replace(self, **moved)

    @property
    def _k(self) -> int:
        assert self.k is not None  # checked when made
        return self.k

    @property
    def _threshold(self) -> Tensor:
        assert self.threshold is not None  # checked when made
        return self.threshold
