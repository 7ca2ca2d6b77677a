"""Gemma Scope's ``params.npz``: JumpReLU dictionaries, and transcoders, which are only read.

``z = x @ W_enc + b_enc``, codes ``z where z > threshold``: the encoder reads ``x`` itself, so
``b_dec @ W_enc`` moves into the bias of an SAE here, and out of it on writing. Transcoders have the
same arrays; only the name of their release tells them apart. They read what the norm before the MLP
gives before its gain (``ln2.hook_normalized``, which is no site here: ``mlp.in`` is after the gain)
and write ``mlp_out``.

Source: Lieberum et al. 2024, arXiv:2408.05147.
"""

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensbench import io
from lensbench.errors import DamagedDataError, MismatchError, MissingDataError
from lensbench.saes.coder import SparseCoder
from lensbench.saes.formats.parts import bias_of_centred, described, take
from lensbench.saes.formats.writing import (
    as_sae,
    file_in,
    read_note,
    thresholds_of,
    weights_of,
    write_note,
)
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder

WEIGHTS_FILE, SUFFIX = "params.npz", ".npz"
_LAYOUT = {
    "W_enc": ("d_model", "d_sae"),
    "W_dec": ("d_sae", "d_model"),
    "b_enc": ("d_sae",),
    "b_dec": ("d_model",),
    "threshold": ("d_sae",),
}
_RELEASE = re.compile(r"gemma-scope-[^/]*-(res|mlp|att|transcoders)/(?:.*/)?layer_(\d+)/")
_SITES = {"res": "resid_post", "mlp": "mlp_out", "att": "attn.z"}


def read(place: Path) -> SAE | Transcoder:
    """The dictionary in ``place``, a folder with ``params.npz`` or the file itself.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: not readable without unpickling, or arrays absent, unknown or misshapen.
    """
    path = place / WEIGHTS_FILE if place.is_dir() else place
    release = _RELEASE.search(path.absolute().as_posix())
    kind, layer = release.groups() if release else ("", "")
    weights: dict[str, Any] = {**take(_arrays(path), _LAYOUT, path), "activation": "threshold"}
    about: dict[str, Any] = {"source_format": "gemma_scope"}
    if kind == "transcoders":
        ends = {"site": f"blocks.{layer}.ln2.hook_normalized", "target": f"blocks.{layer}.mlp_out"}
        return Transcoder(**weights, metadata=about | ends)
    about["site"] = f"blocks.{layer}.{_SITES[kind]}" if kind else None
    bias = bias_of_centred(weights["b_enc"], weights["b_dec"], weights["W_enc"])
    return SAE(**weights | {"b_enc": bias}, **described(read_note(path), about))


def write(coder: SparseCoder, place: Path) -> None:
    """Write ``params.npz`` into the folder ``place`` (or ``place``, an ``.npz``), and a note.

    ReLU is JumpReLU with thresholds of 0.

    Raises:
        MismatchError: TopK, or no SAE.
    """
    sae = as_sae(coder, "Gemma Scope")
    if sae.activation == "topk":
        raise MismatchError(
            "Gemma Scope has JumpReLU dictionaries only, and TopK has no threshold; write it as "
            "'sae_lens', 'dictionary_learning', 'sparsify' or 'llamascopium'"
        )
    path, w = file_in(place, WEIGHTS_FILE), weights_of(sae)
    with io.atomic_path(path) as temp, temp.open("wb") as file:
        np.savez(
            file,
            W_enc=w["W_enc"].numpy(),
            W_dec=w["W_dec"].numpy(),
            b_enc=bias_of_centred(w["b_enc"], w["b_dec"], w["W_enc"], sign=-1).numpy(),
            b_dec=w["b_dec"].numpy(),
            threshold=thresholds_of(sae).numpy(),
        )
    write_note(path, sae)


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise MissingDataError(f"no file {path}")
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: torch.from_numpy(np.asarray(found[name])) for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise DamagedDataError(_cannot(path, error)) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DamagedDataError(_cannot(path, error)) from error


def _cannot(path: Path, error: Exception) -> str:
    return f"{path} is truncated, no npz, or holds pickles (never run): {error}"
