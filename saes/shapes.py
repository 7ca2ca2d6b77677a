"""Shapes of what dictionaries are given: any leading axes in, the same leading axes out."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError


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
    widths = getattr(sae, "told_widths", None) or f"d_model {sae.d_model}"
    return (
        f"{type(sae).__name__}({' '.join(known)}{': ' * bool(known)}{sae.activation}, {widths}, "
        f"d_sae {sae.d_sae}{more}, {sae.W_dec.device})"
    )


def shaped(flat: Tensor, x: Tensor) -> Tensor:
    """The leading axes of ``x`` again."""
    return flat if x.ndim == 2 else flat.reshape(*x.shape[:-1], flat.shape[-1])
