"""sparsify's folders, one per hookpoint: ``cfg.json`` and ``sae.safetensors``.

``encoder.weight [d_sae, d_model]`` is transposed on reading, ``W_dec [d_sae, d_model]`` is not.
Older files have ``num_latents`` 0 and an ``expansion_factor``. Transcoders are refused.

Source: EleutherAI/sparsify 1.3.3.
"""

import re
from pathlib import Path
from typing import Any

import torch

from lensbench import io
from lensbench.errors import MismatchError, UnknownNameError
from lensbench.saes.formats.parts import (
    belongs,
    described,
    read_config,
    site_of_module,
    take,
    to_numpy,
    whole,
)
from lensbench.saes.sae import SAE

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae.safetensors"
_LAYOUT = {
    "encoder.weight": ("d_sae", "d_model"),
    "encoder.bias": ("d_sae",),
    "W_dec": ("d_sae", "d_model"),
    "b_dec": ("d_model",),
}


def read(folder: Path) -> SAE:
    """The dictionary in ``folder``; its parent folder or its name is the module it reads.

    Raises:
        MissingDataError: a file is not there.
        DamagedDataError: not readable; tensors absent, unknown or not as wide as the config says.
        UnknownNameError: an activation that only its owner has.
        MismatchError: a transcoder, or codes of both signs.
    """
    told, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_config(told)
    _refuse(config, folder)
    tensors = take(io.read_tensors(path), _LAYOUT, path)
    d_sae, d_model = tensors["encoder.weight"].shape
    _check_sizes(config, d_sae, d_model, told)
    module = folder.resolve()
    module = module.parent if re.fullmatch(r"seed\d+", module.name) else module
    site = site_of_module(module.name)
    about = {"site": site, "source_format": "sparsify", "hook_name": module.name}
    return SAE(
        W_enc=tensors["encoder.weight"].T.contiguous(),
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        activation="topk",
        k=whole(config.get("k"), "k", told, d_sae),
        **described(config, about),
    )


def _refuse(config: dict[str, Any], folder: Path) -> None:
    if config.get("transcode") or config.get("skip_connection"):
        what = "transcode" if config.get("transcode") else "skip_connection"
        raise MismatchError(
            f"{folder} is a transcoder ({what}): it reads one site and writes another, or adds its "
            "input; only dictionaries of one site can be read here"
        )
    if config.get("signed"):
        raise MismatchError(
            f"{folder} keeps the largest of both signs; codes here are never below 0"
        )
    if (activation := str(config.get("activation", "topk"))) != "topk":
        hint = "groupmax takes the largest of each of k groups, which no activation here does."
        raise UnknownNameError("readable activation", activation, known=("topk",), hint=hint)


def _check_sizes(config: dict[str, Any], d_sae: int, d_model: int, path: Path) -> None:
    d_in = whole(config.get("d_in"), "d_in", path)
    latents = config.get("num_latents") or 0
    if not latents:
        latents = d_in * whole(config.get("expansion_factor"), "expansion_factor", path)
    if (d_in, latents) != (d_model, d_sae):
        raise MismatchError(
            f"{path} says d_in {d_in} and {latents} latents, {WEIGHTS_FILE} holds {d_model} and "
            f"{d_sae}; the two are not of one dictionary"
        )


def write(sae: SAE, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae.safetensors``; the owner's codes are the same.

    Raises:
        MismatchError: another activation than TopK, the only one of this format.
    """
    if sae.activation != "topk":
        raise MismatchError(
            f"sparsify has TopK dictionaries only, this one is {sae.activation!r}; write it as "
            "'sae_lens' or 'dictionary_learning'"
        )
    io.write_arrays(
        folder / WEIGHTS_FILE,
        {
            "encoder.weight": to_numpy(sae.W_enc.T),
            "encoder.bias": to_numpy(sae.b_enc),
            "W_dec": to_numpy(sae.W_dec),
            "b_dec": to_numpy(sae.b_dec),
        },
    )
    norm = sae.W_dec.float().norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_model),
        "normalize_decoder": bool(torch.allclose(norm, torch.ones_like(norm), atol=1e-5)),
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_model,
        "lensbench": belongs(sae),
    }
    io.write_json(folder / CONFIG_FILE, config)
