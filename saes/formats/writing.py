"""What several writers share: weights as float32, and a note where a format has no place for it.

The note, ``<name>.lensbench.json`` beside ``<name>.npz`` or ``.pt``, holds site, config and
metadata, and the sha256 of the weights they belong to: beside other weights it is not read.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench import io
from lensbench.errors import MismatchError
from lensbench.saes.coder import SparseCoder
from lensbench.saes.formats.parts import Tensors, belongs, read_config
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder


def as_sae(coder: SparseCoder, owner: str) -> SAE:
    """``coder``, if it is an SAE.

    Raises:
        MismatchError: a transcoder or crosscoder; names formats that hold it.
    """
    if isinstance(coder, SAE):
        return coder
    raise MismatchError(
        f"a {coder.role} cannot be written for {owner}; write it as {elsewhere(coder)}"
    )


def elsewhere(coder: SparseCoder) -> str:
    """Formats that hold this transcoder or crosscoder, in words."""
    if not isinstance(coder, Transcoder):
        return "'lensbench'"
    if coder.activation == "topk":
        return "'sparsify' or 'lensbench'" if coder.d_in == coder.d_out else "'lensbench'"
    return "'sae_lens' or 'lensbench'"


def weights_of(coder: SparseCoder) -> Tensors:
    """Its weights as float32 on the CPU, by our names."""
    return {n: t.detach().cpu().float().contiguous() for n, t in coder.tensors().items()}


def is_relu(coder: SparseCoder) -> bool:
    """Whether its codes are ``relu(z)``, also where thresholds of at most 0 say so."""
    if coder.activation == "threshold" and coder.threshold is not None:
        return bool((coder.threshold <= 0).all())
    return coder.activation == "relu"


def thresholds_of(coder: SparseCoder) -> Tensor:
    """What a latent must exceed: 0 for ReLU, never less, as codes here are not negative."""
    if coder.threshold is None or coder.activation != "threshold":
        return torch.zeros(coder.d_sae)
    return coder.threshold.detach().cpu().float().clamp(min=0).contiguous()


def file_in(place: Path, name: str) -> Path:
    """``place`` itself where it is called like such a file, else the file ``name`` in it."""
    single = place.suffix == Path(name).suffix and not place.is_dir()
    return place if single else place / name


def write_note(path: Path, coder: SparseCoder) -> None:
    """Write the note that belongs to the weights in ``path``."""
    io.write_json(_note(path), {"lensbench": belongs(coder), "sha256": io.sha256_file(path)})


def read_note(path: Path) -> dict[str, Any]:
    """The note of the weights in ``path``; empty if there is none, or they are other weights.

    Raises:
        DamagedDataError: a note that is no JSON object.
    """
    if not _note(path).is_file():
        return {}
    note = read_config(_note(path))
    return note if note.get("sha256") == io.sha256_file(path) else {}


def _note(path: Path) -> Path:
    return path.with_suffix(".lensbench.json")
