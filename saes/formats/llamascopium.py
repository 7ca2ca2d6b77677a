"""Llamascopium's folders: ``config.json`` and ``sae_weights.safetensors``; read, not written.

With ``s = sqrt(d_model) / dataset_average_activation_norm`` the owner encodes
``z = (s x) @ W_E + b_E`` and divides the reconstruction by ``s`` again. Here that is folded, codes
in the units of ``x`` (its ``fold_activation_scale``): ``b_E / s``, ``b_D / s``, and the threshold
of JumpReLU divided as well, which the owner's own folding leaves out (``models/sae.py``). Where
decoder norms take part in the choice of TopK, they move into the encoder.

Source: OpenMOSS/Language-Model-SAEs 2.0.
"""

import math
from pathlib import Path
from typing import Any

import torch

from lensbench import io
from lensbench.errors import DamagedDataError, MismatchError, UnknownNameError
from lensbench.saes.coder import Activation
from lensbench.saes.formats.parts import (
    Tensors,
    bias_of_centred,
    is_number,
    read_config,
    take,
    unit_decoder,
    whole,
)
from lensbench.saes.sae import SAE
from lensbench.sites import canonical_name

CONFIG_FILE, WEIGHTS_FILE = "config.json", "sae_weights.safetensors"
_LAYOUT = {
    "W_E": ("d_model", "d_sae"),
    "b_E": ("d_sae",),
    "W_D": ("d_sae", "d_model"),
    "b_D": ("d_model",),
}
_THRESHOLD = "activation_function.log_jumprelu_threshold"
_NORM = "dataset_average_activation_norm."
_ACTIVATIONS: dict[str, Activation] = {"relu": "relu", "topk": "topk", "jumprelu": "threshold"}


def read(folder: Path) -> SAE:
    """The dictionary in ``folder``.

    Raises:
        MissingDataError: a file is not there.
        DamagedDataError: not readable; tensors absent, unknown or misshapen; no usable norm.
        UnknownNameError: another kind of dictionary, or an activation that needs the whole batch.
        MismatchError: two sites, a gated linear unit, or a norm that weights cannot express.
    """
    told, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_config(told)
    activation = _activation(config, folder)
    found = io.read_tensors(path)
    layout = _LAYOUT | ({_THRESHOLD: ("d_sae",)} if activation == "threshold" else {})
    optional = () if config.get("use_decoder_bias", True) else ("b_D",)
    norms = [name for name in found if name.startswith(_NORM)]
    raw = take(found, layout, path, optional=optional, ignored=norms)
    tensors: dict[str, Any] = {
        **_folded(raw, _scale(config, found, path, raw["W_E"].shape[0]), config)
    }
    d_sae, hook = len(tensors["b_enc"]), config.get("hook_point_in")
    site = canonical_name(str(hook)) if hook else None
    return SAE(
        **tensors,
        activation=activation,
        k=whole(config.get("top_k"), "top_k", told, d_sae) if activation == "topk" else None,
        metadata={"site": site, "hook_name": hook, "source_format": "llamascopium"},
    )


def _activation(config: dict[str, Any], folder: Path) -> Activation:
    if (kind := str(config.get("sae_type"))) != "sae":
        raise UnknownNameError("readable sae_type", kind, known=("sae",))
    name = str(config.get("act_fn")).lower()
    if name not in _ACTIVATIONS:
        hint = "Batch-wise ones depend on the whole batch; let their owner write them as jumprelu."
        raise UnknownNameError("readable act_fn", name, known=tuple(_ACTIVATIONS), hint=hint)
    one, other = (config.get(f"hook_point_{end}") for end in ("in", "out"))
    if other is not None and one != other:
        raise MismatchError(f"{folder} is a transcoder: it reads {one} and writes {other}")
    for option in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if config.get(option):
            raise MismatchError(f"{folder} has {option}, which no dictionary here has")
    return _ACTIVATIONS[name]


def _scale(config: dict[str, Any], found: Tensors, path: Path, d_model: int) -> float:
    norm = config.get("norm_activation")
    if norm == "inference":  # folded already; the stored norms mean nothing
        return 1.0
    if norm != "dataset-wise":
        raise MismatchError(
            f"{path.parent} normalises activations {norm!r}, by what comes in; weights cannot "
            "express that. Readable: 'inference', 'dataset-wise'"
        )
    name = f"{_NORM}{config.get('hook_point_in')}"
    value = float(found[name]) if name in found and found[name].numel() == 1 else math.nan
    if not is_number(value):
        raise DamagedDataError(
            f"{name} in {path} must be one positive number, as norm_activation is 'dataset-wise'; "
            f"got {value if name in found else 'nothing'}"
        )
    return math.sqrt(d_model) / value


def _folded(raw: Tensors, scale: float, config: dict[str, Any]) -> Tensors:
    b_dec = raw.get("b_D", torch.zeros(raw["W_E"].shape[0])) / scale
    tensors = {
        "W_enc": raw["W_E"],
        "b_enc": bias_of_centred(raw["b_E"] / scale, b_dec, raw["W_E"]),
        "W_dec": raw["W_D"],
        "b_dec": b_dec,
    }
    weighed = bool(config.get("sparsity_include_decoder_norm", True))
    if _THRESHOLD in raw:
        threshold = raw[_THRESHOLD].exp() / scale
        tensors["threshold"] = threshold / raw["W_D"].norm(dim=1) if weighed else threshold
    elif weighed and str(config.get("act_fn")).lower() == "topk":
        unit_decoder(tensors)
    return tensors
