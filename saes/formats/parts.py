"""What the formats share: safe reading, checks of keys and shapes, and the folding of weights.

No pickle is ever run: ``.pt`` files go through :func:`lensbench.io.read_torch`.
"""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import io
from lensbench.errors import ConfigError, DamagedDataError, NonFiniteError
from lensbench.saes.coder import SparseCoder
from lensbench.sites import Site, canonical_name

Tensors = dict[str, Tensor]
_BLOCK = re.compile(r"(?:(?:model|transformer|gpt_neox)\.)?(?:layers|h)\.(\d+)")
_MLP = re.compile(_BLOCK.pattern + r"\.mlp")


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: no JSON, or not an object.
    """
    config = io.read_json(path)
    if not isinstance(config, dict):
        raise DamagedDataError(f"{path} must hold a JSON object, not a {type(config).__name__}")
    return config


def take(
    found: Mapping[str, Any],
    layout: Mapping[str, tuple[str, ...]],
    path: Path,
    *,
    optional: Collection[str] = (),
    ignored: Collection[str] = (),
) -> Tensors:
    """The tensors of ``layout`` as float32; every name and every shape is checked.

    ``layout`` names the axes of each tensor; the first tensor that has an axis sets its length.

    Raises:
        DamagedDataError: a tensor is absent, unknown to the format, or of another shape.
    """
    if absent := [n for n in layout if n not in found and n not in optional]:
        raise DamagedDataError(f"{path} lacks {', '.join(absent)}; it has {_listed(found)}")
    if extra := [n for n in found if n not in layout and n not in ignored]:
        raise DamagedDataError(
            f"{path} has {_listed(extra)} beside {', '.join(layout)}; that is another format or a "
            "variant whose codes would come out wrong"
        )
    axes: dict[str, int] = {}
    taken: Tensors = {}
    for name, dims in layout.items():
        if name in found:
            taken[name] = _shaped(name, found[name], dims, axes, path)
    return taken


def _shaped(
    name: str, value: Any, dims: tuple[str, ...], axes: dict[str, int], path: Path
) -> Tensor:
    if not isinstance(value, Tensor):
        raise DamagedDataError(f"{name} in {path} is a {type(value).__name__}, not a tensor")
    shape = tuple(value.shape)
    if len(shape) == len(dims):
        for dim, size in zip(dims, shape, strict=True):
            axes.setdefault(dim, size)
    wanted = [axes.get(dim, dim) for dim in dims]
    if list(shape) != wanted or 0 in shape:
        raise DamagedDataError(
            f"{name} in {path} has shape {list(shape)}; [{', '.join(dims)}] must be "
            f"[{', '.join(str(w) for w in wanted)}] and not empty"
        )
    return value.detach().float().contiguous()


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:12]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "nothing") + more


def whole(value: Any, name: str, path: Path, most: int | None = None) -> int:
    """A positive whole number of a file.

    Raises:
        DamagedDataError: something else, or more than ``most``.
    """
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, float) and number.is_integer():  # SAELens allows 32.0
        number = int(number)
    if (
        not isinstance(number, int)
        or isinstance(number, bool)
        or number < 1
        or (most is not None and number > most)
    ):
        limit = f" of at most {most}" if most is not None else ""
        raise DamagedDataError(
            f"{name} in {path} must be a positive whole number{limit}, got {value!r}"
        )
    return number


def bias_of_centred(b_enc: Tensor, b_dec: Tensor, W_enc: Tensor, *, sign: int = 1) -> Tensor:
    """``b_enc + sign * b_dec @ W_enc``, summed in float64.

    With ``sign`` 1, the bias for an encoder that reads ``x - b_dec`` where the owner's reads ``x``;
    with -1 the way back.
    """
    return (b_enc.double() + sign * (b_dec.double() @ W_enc.double())).float()


def unit_decoder(tensors: Tensors) -> None:
    """Move the decoder norms into the encoder; the reconstruction stays what it is."""
    norm = tensors["W_dec"].norm(dim=1)
    tensors["W_enc"] = tensors["W_enc"] * norm
    tensors["b_enc"] = tensors["b_enc"] * norm
    tensors["W_dec"] = tensors["W_dec"] / norm.where(norm > 0, 1.0)[:, None]


def check_finite(sae: SparseCoder, path: Path) -> SparseCoder:
    """``sae``, if all its weights are numbers; a threshold may be infinite (it never fires).

    Raises:
        NonFiniteError: names the tensor and how much of it is bad.
    """
    for name, tensor in sae.tensors().items():
        bad = tensor.isnan() if name == "threshold" else ~tensor.isfinite()
        if count := int(bad.sum()):
            raise NonFiniteError(
                f"{name} of the dictionary in {path} is NaN or infinite in {count} of "
                f"{tensor.numel()} places; its training diverged or the file is damaged"
            )
    return sae


def site_of_module(name: str) -> str:
    """Our name for the output of a module of transformers, such as ``layers.10``, if known."""
    block = _BLOCK.fullmatch(name)
    return f"blocks.{block[1]}.resid_post" if block else canonical_name(name)


def ends_of_module(name: str) -> tuple[str, str]:
    """Our names for the input and the output of a module of transformers, if they are known."""
    mlp = _MLP.fullmatch(name)
    if mlp is None:
        return f"{name}.input", f"{name}.output"
    return f"blocks.{mlp[1]}.mlp.in", f"blocks.{mlp[1]}.mlp_out"


def hook_name(site: str) -> str:
    """A site as TransformerLens spells it, where it has a name for it; else as it is."""
    try:
        return Site.parse(site).transformer_lens or site
    except ConfigError:  # a peer's own name
        return site


def belongs(sae: SparseCoder) -> dict[str, Any]:
    """Site, config and metadata, for the block that our writers add to a peer's config."""
    return {"site": sae.site, "config": sae.config, "metadata": sae.metadata}


def described(config: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` and ``metadata`` of a dictionary: our own block where one was written, else told.

    Fields of ``told`` that are None are left out.
    """
    own = config.get("lensbench")
    known = {k: v for k, v in told.items() if v is not None}
    if not isinstance(own, Mapping):
        return {"metadata": {"site": None} | known}
    metadata = dict(own.get("metadata") or {}) | {"source_format": told["source_format"]}
    return {"config": dict(own.get("config") or {}), "metadata": metadata | {"site": own["site"]}}


def is_number(value: float) -> bool:
    """Whether a scale can be divided by."""
    return math.isfinite(value) and value > 0


def to_numpy(tensor: Tensor) -> np.ndarray:
    """On the CPU; bfloat16, which numpy has not, becomes float32."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def without_place(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a dictionary, a model's folder on this machine reduced to its name."""
    card = metadata.get("model")
    source = str(card.get("source") or "") if isinstance(card, Mapping) else ""
    if not (PurePosixPath(source).is_absolute() or PureWindowsPath(source).is_absolute()):
        return dict(metadata)
    return {**metadata, "model": {**dict(card or {}), "source": PureWindowsPath(source).name}}
