"""sparsify's folders, one per hookpoint: ``cfg.json`` and ``sae.safetensors``.

``encoder.weight [d_sae, d_model]`` is transposed on reading, ``W_dec [d_sae, d_model]`` is not.
Older files have ``num_latents`` 0 and an ``expansion_factor``. A transcoder (``transcode``) reads
the input of a module and writes its output; it does not take ``b_dec`` from what it reads, and
``W_skip`` is ``[d_out, d_in]``. A skip connection without ``transcode`` is refused.

Source: EleutherAI/sparsify 1.3.3.
"""

import re
from pathlib import Path
from typing import Any

import torch

from lensbench import io
from lensbench.errors import MismatchError, UnknownNameError
from lensbench.saes.coder import SparseCoder
from lensbench.saes.crosscoder import Crosscoder
from lensbench.saes.formats.parts import (
    belongs,
    described,
    ends_of_module,
    read_config,
    site_of_module,
    take,
    to_numpy,
    whole,
)
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder

CONFIG_FILE, WEIGHTS_FILE = "cfg.json", "sae.safetensors"
_LAYOUT = {
    "encoder.weight": ("d_sae", "d_model"),
    "encoder.bias": ("d_sae",),
    "W_dec": ("d_sae", "d_model"),
    "b_dec": ("d_model",),
}


def read(folder: Path) -> SparseCoder:
    """The SAE or transcoder in ``folder``; its parent folder or its name is the module it reads.

    Raises:
        MissingDataError: a file is not there.
        DamagedDataError: not readable; tensors absent, unknown or not as wide as the config says.
        UnknownNameError: an activation that only its owner has.
        MismatchError: an SAE with a skip connection, or codes of both signs.
    """
    told, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_config(told)
    _refuse(config, folder)
    skip = {"W_skip": ("d_model", "d_model")} if config.get("skip_connection") else {}
    tensors = take(io.read_tensors(path), _LAYOUT | skip, path)
    d_sae, d_model = tensors["encoder.weight"].shape
    _check_sizes(config, d_sae, d_model, told)
    module = folder.resolve()
    module = module.parent if re.fullmatch(r"seed\d+", module.name) else module
    weights: dict[str, Any] = {
        "W_enc": tensors["encoder.weight"].T.contiguous(),
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
        "activation": "topk",
        "k": whole(config.get("k"), "k", told, d_sae),
    }
    about: dict[str, Any] = {"source_format": "sparsify", "hook_name": module.name}
    if not config.get("transcode"):
        return SAE(**weights, **described(config, about | {"site": site_of_module(module.name)}))
    if skip:
        weights["W_skip"] = tensors["W_skip"].t().contiguous()
    site, target = ends_of_module(module.name)
    found = described(config, about | {"site": site})
    found["metadata"].setdefault("target", target)
    return Transcoder(**weights, **found)


def _refuse(config: dict[str, Any], folder: Path) -> None:
    if config.get("skip_connection") and not config.get("transcode"):
        raise MismatchError(
            f"{folder} is an autoencoder with a skip_connection, which could pass its input on "
            "unread; only transcoders may have one here"
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


def write(sae: SparseCoder, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae.safetensors``; the owner's codes are the same.

    Raises:
        MismatchError: another activation than TopK, the only one of this format; a crosscoder; a
            transcoder between sites of different widths.
    """
    if isinstance(sae, Crosscoder) or sae.d_in != sae.d_out:
        wide = "" if isinstance(sae, Crosscoder) else f" from {sae.d_in} to {sae.d_out} numbers"
        raise MismatchError(f"sparsify has no {sae.role}{wide}; write it as 'lensbench'")
    if sae.activation != "topk":
        raise MismatchError(
            f"sparsify has TopK dictionaries only, this one is {sae.activation!r}; write it as "
            "'sae_lens' or 'dictionary_learning'"
        )
    skip = getattr(sae, "W_skip", None)
    arrays = {
        "encoder.weight": to_numpy(sae.W_enc.T),
        "encoder.bias": to_numpy(sae.b_enc),
        "W_dec": to_numpy(sae.W_dec),
        "b_dec": to_numpy(sae.b_dec),
    }
    if skip is not None:
        arrays["W_skip"] = to_numpy(skip.T)
    io.write_arrays(folder / WEIGHTS_FILE, arrays)
    norm = sae.W_dec.float().norm(dim=1)
    config = {
        "activation": "topk",
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": bool(torch.allclose(norm, torch.ones_like(norm), atol=1e-5)),
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": skip is not None,
        "transcode": isinstance(sae, Transcoder),
        "d_in": sae.d_in,
        "lensbench": belongs(sae),
    }
    io.write_json(folder / CONFIG_FILE, config)
