"""What every dictionary does with its weights: encode to sparse latents, decode them.

:class:`lensbench.saes.sae.SAE`, :class:`lensbench.saes.transcoder.Transcoder` and
:class:`lensbench.saes.crosscoder.Crosscoder` say what is read and what is written.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.saes.shapes import flattened, flattened_sparse, one_line, shaped
from lensbench.saes.step.selection import top_k

Activation = Literal["topk", "relu", "threshold"]
CoderT = TypeVar("CoderT", bound="SparseCoder")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SparseCoder:
    """Latents ``f(pre)`` of pre-activations, and ``latents @ W_dec + b_dec``.

    ``f`` is one of: ``topk`` (the k largest, negative ones set to zero), ``relu``, ``threshold``
    (``z`` where ``z > threshold``, else 0; what BatchTopK uses after training).
    Activations and latents may have any leading axes: ``[batch, pos, d_in]`` as well as
    ``[tokens, d_in]`` or one vector.
    """

    role: ClassVar[str] = ""
    """What it is for: ``sae``, ``transcoder``, ``crosscoder``."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    activation: Activation
    k: int | None = None
    threshold: Float[Tensor, " d_sae"] | None = None
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """The config it was trained with; empty for a dictionary of others."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """Where it belongs: site, model card, tokens trained on, source format."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        d_in, d_sae = self.W_enc.shape
        for name, shape in self._shapes().items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ConfigError(
                    f"{name} has shape {tuple(tensor.shape)}; with W_enc [{d_in}, {d_sae}] it "
                    f"must be {shape}"
                )
        if self.activation == "topk" and not (self.k and 0 < self.k <= d_sae):
            raise ConfigError(f"k must be in 1..d_sae={d_sae}, got {self.k}")
        if self.activation == "threshold" and self.threshold is None:
            raise ConfigError("activation 'threshold' needs a threshold per latent")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor but ``W_enc``, by name."""
        d_out = self.W_dec.shape[-1]
        return {
            "b_enc": (self.d_sae,),
            "W_dec": (self.d_sae, d_out),
            "b_dec": (d_out,),
            "threshold": (self.d_sae,),
        }

    @property
    def d_in(self) -> int:
        """Width of what is read."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what is written."""
        return self.W_dec.shape[1]

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
        """Site that is read, if known."""
        return self.metadata.get("site") or self.config.get("site")

    def __repr__(self) -> str:
        """Name, site, kind and sizes in one line."""
        name = self.metadata.get("name") or self.config.get("name")
        return one_line(self, name, "" if self.k is None else f", k {self.k}")

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """What the activation function is given."""
        return shaped(self._pre(self._read(x)), x)

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Latents of activations, dense; never negative.

        ``x`` may have any leading axes, which come back; it is read in the dictionary's dtype and
        on its device, where the answer is.

        Raises:
            ConfigError: no tensor of floating numbers, or another width.
        """
        return shaped(self._encode(self._read(x)), x)

    def encode_sparse(
        self, x: Float[Tensor, "... d_in"]
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
        """Values and indices of the latents that fire.

        TopK has ``k`` columns; the others as many as the busiest token of ``x`` needs, and a token
        with fewer is padded with value 0.

        Raises:
            ConfigError: see :meth:`encode`.
        """
        values, indices = self._encode_sparse(self._read(x))
        return shaped(values, x), shaped(indices, x)

    def decode(self, acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_out"]:
        """``acts @ W_dec + b_dec``; any leading axes, as in :meth:`encode`."""
        return shaped(self._decode(flattened(acts, self.d_sae, "latents", self.W_dec)), acts)

    def decode_sparse(
        self, values: Float[Tensor, "... k"], indices: Int[Tensor, "... k"]
    ) -> Float[Tensor, "... d_out"]:
        """The same as :meth:`decode` from values and indices, without the dense latents.

        Raises:
            ConfigError: values and indices of different shapes.
        """
        flat, places = flattened_sparse(values, indices, self.W_dec)
        return shaped(self._decode_sparse(flat, places), values)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """What is written for ``x``; any leading axes, as in :meth:`encode`."""
        return shaped(self._forward(self._read(x)), x)

    __call__ = forward

    def to(self: CoderT, device: torch.device | str) -> CoderT:
        """A copy on another device."""
        return replace(self, **{n: t.to(device) for n, t in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, by name."""
        names = ("W_enc", *self._shapes())
        return {n: t for n in names if (t := getattr(self, n)) is not None}

    @property
    def _k(self) -> int:
        assert self.k is not None  # checked when made
        return self.k

    @property
    def _threshold(self) -> Tensor:
        assert self.threshold is not None  # checked when made
        return self.threshold

    def _read(self, x: Tensor) -> Float[Tensor, "tokens d_in"]:
        return flattened(x, self.d_in, "activations", self.W_enc)

    def _pre(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        return torch.addmm(self.b_enc, x, self.W_enc)

    def _forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_out"]:
        if self.activation == "topk":
            return self._decode_sparse(*self._encode_sparse(x))
        return self._decode(self._encode(x))

    def _encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        z = self._pre(x)
        if self.activation == "topk":
            values, indices = top_k(z, self._k)
            return torch.zeros_like(z).scatter_(1, indices, values.relu())
        if self.activation == "threshold":
            return z.relu() * (z > self._threshold)
        return z.relu()

    def _encode_sparse(
        self, x: Float[Tensor, "tokens d_in"]
    ) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        if self.activation == "topk":
            values, indices = top_k(self._pre(x), self._k)
            return values.relu(), indices
        acts = self._encode(x)
        width = max(1, int((acts > 0).sum(1).max())) if len(acts) else 1
        return top_k(acts, width)

    def _decode(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_out"]:
        return torch.addmm(self.b_dec, acts, self.W_dec)

    def _decode_sparse(
        self, values: Float[Tensor, "tokens k"], indices: Int[Tensor, "tokens k"]
    ) -> Float[Tensor, "tokens d_out"]:
        summed = torch.nn.functional.embedding_bag(
            indices, self.W_dec, per_sample_weights=values, mode="sum"
        )
        return summed + self.b_dec
