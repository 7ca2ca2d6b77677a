"""Llamascopium's folders: ``config.json`` and ``sae_weights.safetensors``, SAEs and transcoders.

With ``s = sqrt(d_model) / dataset_average_activation_norm`` of what is read, and ``s'`` of what is
written, the owner encodes ``z = (s x) @ W_E + b_E`` and divides what comes out by ``s'``. Here that
is folded, codes in the units of ``x`` (its ``fold_activation_scale``): ``b_E / s``,
``W_D s / s'``, ``b_D / s'``, and the threshold of JumpReLU divided as well, which the owner's own
folding leaves out (``models/sae.py``). Where decoder norms take part in the choice of TopK, they
move into the encoder. What is written needs no scale (``inference``) and no decoder norms.

Source: OpenMOSS/Language-Model-SAEs 2.0.
"""

import math
from pathlib import Path
from typing import Any

import torch

from lensbench import io
from lensbench.errors import DamagedDataError, MismatchError, UnknownNameError
from lensbench.saes.coder import Activation, SparseCoder
from lensbench.saes.crosscoder import Crosscoder
from lensbench.saes.formats.parts import (
    Tensors,
    belongs,
    bias_of_centred,
    described,
    hook_name,
    is_number,
    read_config,
    take,
    unit_decoder,
    whole,
)
from lensbench.saes.formats.writing import elsewhere, is_relu, thresholds_of, weights_of
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder
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
_DEFAULTS = {
    "use_glu_encoder": False,
    "use_decoder_bias": True,
    "norm_activation": "inference",
    "sparsity_include_decoder_norm": False,
    "use_triton_kernel": False,
    "sparsity_threshold_for_triton_spmm_kernel": 0.996,
    "jumprelu_threshold_window": 2.0,
}
"""The fields of the owner's config that are the same for every dictionary written."""


def read(folder: Path) -> SAE | Transcoder:
    """The dictionary in ``folder``; a transcoder where two hook points are named.

    Raises:
        MissingDataError: a file is not there.
        DamagedDataError: not readable; tensors absent, unknown or misshapen; no usable norm.
        UnknownNameError: another kind of dictionary, or an activation that needs the whole batch.
        MismatchError: a gated linear unit, or a norm that weights cannot express.
    """
    told, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_config(told)
    activation = _activation(config, folder)
    found = io.read_tensors(path)
    layout = _LAYOUT | ({_THRESHOLD: ("d_sae",)} if activation == "threshold" else {})
    optional = () if config.get("use_decoder_bias", True) else ("b_D",)
    norms = [name for name in found if name.startswith(_NORM)]
    raw = take(found, layout, path, optional=optional, ignored=norms)
    hooks = _hooks(config)
    one, other = (_scale(config, hook, found, path, raw["W_E"].shape[0]) for hook in hooks)
    tensors: dict[str, Any] = {**_folded(raw, one, other, config)}
    d_sae = len(tensors["b_enc"])
    tensors["k"] = (
        whole(config.get("top_k"), "top_k", told, d_sae) if activation == "topk" else None
    )
    ends = [canonical_name(str(hook)) if hook else None for hook in hooks]
    about = {"site": ends[0], "hook_name": hooks[0], "source_format": "llamascopium"}
    if hooks[0] != hooks[1]:
        about |= {"target": ends[1], "hook_name_out": hooks[1]}
        return Transcoder(**tensors, activation=activation, **described(config, about))
    tensors["b_enc"] = bias_of_centred(tensors["b_enc"], tensors["b_dec"], tensors["W_enc"])
    return SAE(**tensors, activation=activation, **described(config, about))


def _hooks(config: dict[str, Any]) -> tuple[Any, Any]:
    """What is read and what is written, as the owner calls them."""
    one, other = (config.get(f"hook_point_{end}") for end in ("in", "out"))
    return one, one if other is None else other


def _activation(config: dict[str, Any], folder: Path) -> Activation:
    if (kind := str(config.get("sae_type"))) != "sae":
        raise UnknownNameError("readable sae_type", kind, known=("sae",))
    name = str(config.get("act_fn")).lower()
    if name not in _ACTIVATIONS:
        hint = "Batch-wise ones depend on the whole batch; let their owner write them as jumprelu."
        raise UnknownNameError("readable act_fn", name, known=tuple(_ACTIVATIONS), hint=hint)
    for option in ("use_glu_encoder", "apply_decoder_bias_to_pre_encoder"):
        if config.get(option):
            raise MismatchError(f"{folder} has {option}, which no dictionary here has")
    return _ACTIVATIONS[name]


def _scale(config: dict[str, Any], hook: Any, found: Tensors, path: Path, d_model: int) -> float:
    norm = config.get("norm_activation")
    if norm == "inference":  # folded already; the stored norms mean nothing
        return 1.0
    if norm != "dataset-wise":
        raise MismatchError(
            f"{path.parent} normalises activations {norm!r}, by what comes in; weights cannot "
            "express that. Readable: 'inference', 'dataset-wise'"
        )
    name = f"{_NORM}{hook}"
    value = float(found[name]) if name in found and found[name].numel() == 1 else math.nan
    if not is_number(value):
        raise DamagedDataError(
            f"{name} in {path} must be one positive number, as norm_activation is 'dataset-wise'; "
            f"got {value if name in found else 'nothing'}"
        )
    return math.sqrt(d_model) / value


def _folded(raw: Tensors, one: float, other: float, config: dict[str, Any]) -> Tensors:
    """Weights in the units of what is read (scale ``one``) and written (``other``)."""
    tensors = {
        "W_enc": raw["W_E"],
        "b_enc": raw["b_E"] / one,
        "W_dec": raw["W_D"] * (one / other),
        "b_dec": raw.get("b_D", torch.zeros(raw["W_E"].shape[0])) / other,
    }
    weighed = bool(config.get("sparsity_include_decoder_norm", True))
    if _THRESHOLD in raw:
        threshold = raw[_THRESHOLD].exp() / one
        tensors["threshold"] = threshold / raw["W_D"].norm(dim=1) if weighed else threshold
    elif weighed and str(config.get("act_fn")).lower() == "topk":
        unit_decoder(tensors)
    return tensors


def write(coder: SparseCoder, folder: Path) -> None:
    """Write both files; hook points in TransformerLens' spelling where it has one.

    Thresholds are stored as logarithms in float32: they come back to a part in 10^6.

    Raises:
        MismatchError: a site that is not known, which the format must name; a crosscoder, a skip
            connection, or a transcoder between sites of different widths.
    """
    hooks, w = _hooks_of(coder), weights_of(coder)
    centred = isinstance(coder, SAE)
    b_enc = bias_of_centred(w["b_enc"], w["b_dec"], w["W_enc"], sign=-1) if centred else w["b_enc"]
    arrays = {"W_E": w["W_enc"], "b_E": b_enc, "W_D": w["W_dec"], "b_D": w["b_dec"]}
    act_fn = "topk" if coder.activation == "topk" else "relu" if is_relu(coder) else "jumprelu"
    if act_fn == "jumprelu":
        arrays[_THRESHOLD] = thresholds_of(coder).double().log().float()
    config = {
        "sae_type": "sae",
        "hook_point_in": hooks[0],
        "hook_point_out": hooks[1],
        "d_model": coder.d_in,
        "expansion_factor": _factor(coder.d_in, coder.d_sae),
        "act_fn": act_fn,
        "top_k": coder.k or 50,  # without TopK nobody reads it; 50 is the owner's default
        **_DEFAULTS,
        "lensbench": belongs(coder),
    }
    io.write_arrays(folder / WEIGHTS_FILE, {n: t.numpy() for n, t in arrays.items()})
    io.write_json(folder / CONFIG_FILE, config)


def _hooks_of(coder: SparseCoder) -> tuple[str, str]:
    """What is read and what is written; two names exactly where a transcoder is written."""
    skip = " with a skip connection" if getattr(coder, "W_skip", None) is not None else ""
    wide = f" from {coder.d_in} to {coder.d_out} numbers" if coder.d_in != coder.d_out else ""
    if isinstance(coder, Crosscoder) or skip or wide:
        told = "" if isinstance(coder, Crosscoder) else skip + wide
        raise MismatchError(
            f"a {coder.role}{told} cannot be written for Llamascopium; write it as "
            f"{elsewhere(coder)}"
        )
    ends = (coder.site, coder.target if isinstance(coder, Transcoder) else coder.site)
    if not (ends[0] and ends[1]):
        raise MismatchError(
            f"Llamascopium names the hook point of a dictionary, and this {coder.role} does not "
            "know what it reads or writes; set metadata['site'] (of a transcoder 'target' too), or "
            "write it as 'lensbench'"
        )
    hooks = hook_name(ends[0]), hook_name(ends[1])
    if isinstance(coder, Transcoder) and hooks[0] == hooks[1]:
        raise MismatchError(
            f"a transcoder from {hooks[0]} to itself is an autoencoder for Llamascopium; write it "
            f"as {elsewhere(coder)}"
        )
    return hooks


def _factor(d_model: int, d_sae: int) -> float:
    """An expansion factor with ``int(d_model * factor) == d_sae``, as its owner reckons."""
    factor = d_sae / d_model
    return factor if int(d_model * factor) == d_sae else math.nextafter(factor, math.inf)
