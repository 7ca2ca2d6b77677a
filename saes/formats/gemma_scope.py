"""Gemma Scope's ``params.npz``: JumpReLU dictionaries of one site; read, not written.

``z = x @ W_enc + b_enc``, codes ``z where z > threshold``: the encoder reads ``x`` itself, so
``b_dec @ W_enc`` moves into the bias here. Its transcoders have the same arrays; only the name of
their release tells them apart, and they are refused by it.

Source: Lieberum et al. 2024, arXiv:2408.05147.
"""

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lensbench.errors import DamagedDataError, MismatchError, MissingDataError
from lensbench.saes.formats.parts import bias_of_centred, take
from lensbench.saes.sae import SAE

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


def read(place: Path) -> SAE:
    """The dictionary in ``place``, a folder with ``params.npz`` or the file itself.

    Raises:
        MissingDataError: no such file.
        DamagedDataError: not readable without unpickling, or arrays absent, unknown or misshapen.
        MismatchError: it lies in a release of transcoders.
    """
    path = place / WEIGHTS_FILE if place.is_dir() else place
    release = _RELEASE.search(path.absolute().as_posix())
    kind, layer = release.groups() if release else ("", "")
    if kind == "transcoders":
        raise MismatchError(f"{path} is a transcoder: it reads one site and writes another")
    tensors = take(_arrays(path), _LAYOUT, path)
    tensors["b_enc"] = bias_of_centred(tensors["b_enc"], tensors["b_dec"], tensors["W_enc"])
    site = f"blocks.{layer}.{_SITES[kind]}" if kind else None
    metadata = {"site": site, "source_format": "gemma_scope"}
    weights: dict[str, Any] = {**tensors}
    return SAE(**weights, activation="threshold", metadata=metadata)


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
