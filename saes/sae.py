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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SAE:
    """Sparse autoencoder: ``x_hat = f((x - b_dec) @ W_enc + b_enc) @ W_dec + b_dec``.

    ``f`` is one of: ``topk`` (the k largest, negative ones set to zero), ``relu``, ``threshold``
    (``z`` where ``z > threshold``, else 0; what BatchTopK uses after training).
    Activations and latents may have any leading axes: ``[batch, pos, d_model]`` as well as
    ``[tokens, d_model]`` or one vector.
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

    def __repr__(self) -> str:
        """Name, site, kind and sizes in one line."""
        name = self.metadata.get("name") or self.config.get("name")
        return one_line(self, name, "" if self.k is None else f", k {self.k}")

    def pre_activations(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_sae"]:
        """``(x - b_dec) @ W_enc + b_enc``."""
        return shaped(self._pre(self._read(x)), x)

    def encode(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_sae"]:
        """Latents of activations, dense; never negative.

        ``x`` may have any leading axes, which come back; it is read in the dictionary's dtype and
        on its device, where the answer is.

        Raises:
            ConfigError: no tensor of floating numbers, or another width.
        """
        return shaped(self._encode(self._read(x)), x)

    def encode_sparse(
        self, x: Float[Tensor, "... d_model"]
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
        """Values and indices of the latents that fire.

        TopK has ``k`` columns; the others as many as the busiest token of ``x`` needs, and a token
        with fewer is padded with value 0.

        Raises:
            ConfigError: see :meth:`encode`.
        """
        values, indices = self._encode_sparse(self._read(x))
        return shaped(values, x), shaped(indices, x)

    def decode(self, acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_model"]:
        """``acts @ W_dec + b_dec``; any leading axes, as in :meth:`encode`."""
        return shaped(self._decode(flattened(acts, self.d_sae, "latents", self.W_dec)), acts)

    def decode_sparse(
        self, values: Float[Tensor, "... k"], indices: Int[Tensor, "... k"]
    ) -> Float[Tensor, "... d_model"]:
        """The same as :meth:`decode` from values and indices, without the dense latents.

        Raises:
            ConfigError: values and indices of different shapes.
        """
        flat, places = flattened_sparse(values, indices, self.W_dec)
        return shaped(self._decode_sparse(flat, places), values)

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Reconstruction of ``x``; any leading axes, as in :meth:`encode`."""
        flat = self._read(x)
        if self.activation == "topk":
            return shaped(self._decode_sparse(*self._encode_sparse(flat)), x)
        return shaped(self._decode(self._encode(flat)), x)

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

    def _read(self, x: Tensor) -> Float[Tensor, "tokens d_model"]:
        return flattened(x, self.d_model, "activations", self.W_enc)

    def _pre(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)

    def _encode(self, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_sae"]:
        z = self._pre(x)
        if self.activation == "topk":
            values, indices = top_k(z, self._k)
            return torch.zeros_like(z).scatter_(1, indices, values.relu())
        if self.activation == "threshold":
            return z.relu() * (z > self._threshold)
        return z.relu()

    def _encode_sparse(
        self, x: Float[Tensor, "tokens d_model"]
    ) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        if self.activation == "topk":
            values, indices = top_k(self._pre(x), self._k)
            return values.relu(), indices
        acts = self._encode(x)
        width = max(1, int((acts > 0).sum(1).max())) if len(acts) else 1
        return top_k(acts, width)

    def _decode(self, acts: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_model"]:
        return torch.addmm(self.b_dec, acts, self.W_dec)

    def _decode_sparse(
        self, values: Float[Tensor, "tokens k"], indices: Int[Tensor, "tokens k"]
    ) -> Float[Tensor, "tokens d_model"]:
        summed = torch.nn.functional.embedding_bag(
            indices, self.W_dec, per_sample_weights=values, mode="sum"
        )
        return summed + self.b_dec


def flattened(x: Any, width: int, what: str, like: Tensor) -> Float[Tensor, "tokens _"]:
    """``x`` as ``[tokens, width]``, in the dtype and on the device of ``like``.

    What has that form already is given back as it is.

    Raises:
        ConfigError: no tensor, no floating numbers, or another width.
    """
    if not isinstance(x, Tensor):
        came = "numpy array" if type(x).__module__ == "numpy" else type(x).__name__
        raise ConfigError(
            f"{what} must be a tensor, such as torch.as_tensor(array) gives; got a {came}"
        )
    if x.ndim == 0 or x.shape[-1] != width:
        raise ConfigError(f"this dictionary takes {what} [..., {width}], got {list(x.shape)}")
    if not x.is_floating_point():
        raise ConfigError(f"{what} must be floating numbers, got {x.dtype}")
    x = x.to(device=like.device, dtype=like.dtype)
    return x if x.ndim == 2 else x.reshape(-1, width)


def flattened_sparse(
    values: Any, indices: Any, like: Tensor
) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """Values and indices as ``[tokens, k]``, on the device of ``like``, values in its dtype.

    Raises:
        ConfigError: no tensors, or of different shapes.
    """
    shapes = [list(getattr(t, "shape", ())) for t in (values, indices)]
    if not isinstance(indices, Tensor) or shapes[0] != shapes[1] or not shapes[0]:
        raise ConfigError(
            f"values and indices must be tensors [..., k] of one shape, got {shapes[0]} and "
            f"{shapes[1]}"
        )
    k = shapes[0][-1]
    flat = flattened(values, k, "values", like)
    return flat, indices.to(like.device).reshape(flat.shape)


def one_line(sae: Any, name: Any, more: str = "") -> str:
    """``SAE('mine' at blocks.1.resid_post: topk, d_model 6, d_sae 20, k 3, cpu)``."""
    known = [repr(str(name))] * bool(name) + [f"at {sae.site}"] * bool(sae.site)
    return (
        f"{type(sae).__name__}({' '.join(known)}{': ' * bool(known)}{sae.activation}, d_model "
        f"{sae.d_model}, d_sae {sae.d_sae}{more}, {sae.W_dec.device})"
    )


def shaped(flat: Tensor, x: Tensor) -> Tensor:
    """The leading axes of ``x`` again."""
    return flat if x.ndim == 2 else flat.reshape(*x.shape[:-1], flat.shape[-1])
