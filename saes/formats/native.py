"""Our own folder, for what no peer's format holds: ``dictionary.json``, ``dictionary.safetensors``.

Every role and activation: SAEs, transcoders with or without a skip connection, crosscoders.
"""

from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.errors import DamagedDataError
from lensbench.saes.coder import SparseCoder
from lensbench.saes.crosscoder import Crosscoder
from lensbench.saes.formats.parts import read_config, to_numpy
from lensbench.saes.sae import SAE
from lensbench.saes.transcoder import Transcoder

CONFIG_FILE, WEIGHTS_FILE = "dictionary.json", "dictionary.safetensors"
ROLES: dict[str, Any] = {c.role: c for c in (SAE, Transcoder, Crosscoder)}
_SEVERAL = ("sites", "widths", "scales")


def write(coder: SparseCoder, folder: Path) -> None:
    """Write both files; the checksum of the weights is in the other."""
    io.write_arrays(
        folder / WEIGHTS_FILE, {name: to_numpy(t) for name, t in coder.tensors().items()}
    )
    several = {n: list(getattr(coder, n)) for n in _SEVERAL if isinstance(coder, Crosscoder)}
    body: dict[str, Any] = {
        "role": coder.role,
        "activation": coder.activation,
        "k": coder.k,
        "config": coder.config,
        "metadata": coder.metadata,
        "sha256": io.sha256_file(folder / WEIGHTS_FILE),
    }
    io.write_json(folder / CONFIG_FILE, body | several)


def read(folder: Path) -> SparseCoder:
    """What :func:`write` wrote.

    Raises:
        MissingDataError: a file is not there.
        DamagedDataError: not readable, changed since, of no role known here, or with weights that
            do not belong together.
    """
    told, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_config(told)
    tensors = io.read_tensors(path)
    if io.sha256_file(path) != config.get("sha256"):
        raise DamagedDataError(f"{path} is damaged (its sha256 is not the one in {told.name})")
    if config.get("role") not in ROLES:
        raise DamagedDataError(f"{told} names the role {config.get('role')!r}, not {list(ROLES)}")
    several = {n: tuple(config[n]) for n in _SEVERAL if n in config}
    rest = {n: config.get(n) for n in ("activation", "k", "config", "metadata")}
    try:
        return ROLES[config["role"]](**tensors, **several, **rest)
    except TypeError as error:
        raise DamagedDataError(f"{told} and {path.name} do not fit together: {error}") from None
