"""Tuned lenses on disk: our folder, tuned-lens' folder, and the checkpoint of a run.

Ours is ``config.json`` and ``lens.safetensors``. tuned-lens' is ``config.json`` and ``params.pt``,
which is a pickle and is opened as tensors and plain values only (as every ``.pt`` file here);
``params.safetensors`` with the same names is read in its place where it exists.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lensbench import io
from lensbench.errors import (
    ConfigError,
    DamagedDataError,
    MismatchError,
    MissingDataError,
    UnknownNameError,
)
from lensbench.probes.lenses.tuned.lens import TunedLens

if TYPE_CHECKING:
    from lensbench.models import Model

CONFIG, WEIGHTS = "config.json", "lens.safetensors"
PEER_WEIGHTS, PEER_SAFE = "params.pt", "params.safetensors"
KIND, SCHEMA = "lensbench tuned lens", 1
Format = Literal["lensbench", "tuned_lens"]


def save_tuned_lens(lens: TunedLens, folder: Path | str, *, format: Format = "lensbench") -> Path:
    """Write a lens; ``format="tuned_lens"`` gives what the tuned-lens package loads.

    Raises:
        UnknownNameError: no such format.
        ConfigError: for tuned-lens, a lens that lacks a layer (it has them all, embeddings first).

    Example:
        >>> folder = probes.save_tuned_lens(tuned, "lens")
    """
    place = Path(folder)
    if format == "tuned_lens":
        return _save_peer(lens, place)
    if format != "lensbench":
        raise UnknownNameError("format", format, known=("lensbench", "tuned_lens"))
    arrays = {"weight": lens.weight.float().numpy(), "bias": lens.bias.float().numpy()}
    io.write_arrays(place / WEIGHTS, {**arrays, "losses": np.asarray(lens.losses, np.float64)})
    card = lens.model.card
    io.write_json(
        place / CONFIG,
        {
            "kind": KIND,
            "schema": SCHEMA,
            "model": {"name": card.name, "fingerprint": card.fingerprint, "d_model": card.d_model},
            "layers": list(lens.layers),
            "settings": lens.settings,
            "sha256": io.sha256_file(place / WEIGHTS),
        },
    )
    return place


def load_tuned_lens(
    folder: Path | str, model: "Model", *, check_unembedding: bool = True
) -> TunedLens:
    """Read a lens of ours or of tuned-lens, for the model that it was trained on.

    ``check_unembedding=False`` reads a tuned-lens folder whose hash of the unembedding differs.

    Raises:
        MissingDataError: no lens there.
        DamagedDataError: not readable, other tensors than it should have, or an unsafe pickle.
        MismatchError: a lens of another model, width or unembedding.

    Example:
        >>> lens = probes.load_tuned_lens(probes.save_tuned_lens(tuned, "lens"), model)
    """
    place = Path(folder)
    config = io.read_json(place / CONFIG)
    if not isinstance(config, dict):
        raise DamagedDataError(f"{place / CONFIG} must hold a JSON object")
    if "base_model_name_or_path" in config:
        return _load_peer(place, config, model, check_unembedding=check_unembedding)
    if config.get("kind") != KIND or config.get("schema") != SCHEMA:
        raise DamagedDataError(f"{place / CONFIG} is neither a tuned lens of lensbench (schema "
                               f"{SCHEMA}) nor one of tuned-lens")  # fmt: skip
    card, told = model.card, config["model"]
    if told["fingerprint"] != card.fingerprint:
        raise MismatchError(
            f"the tuned lens in {place} is of {told['name']} ({told['fingerprint']}, width "
            f"{told['d_model']}), not of {card.name} ({card.fingerprint}, width {card.d_model})"
        )
    arrays = io.read_arrays(place / WEIGHTS)
    if io.sha256_file(place / WEIGHTS) != config["sha256"]:
        raise DamagedDataError(f"{place / WEIGHTS} was altered after it was written (sha256)")
    return TunedLens(
        model, tuple(config["layers"]), torch.from_numpy(arrays["weight"]),
        torch.from_numpy(arrays["bias"]), config["settings"], arrays["losses"],
    )  # fmt: skip


def finished(folder: Path, model: "Model", identity: dict[str, Any]) -> TunedLens | None:
    """The lens that a run left in ``folder``, if it is there.

    Raises:
        MismatchError: a lens of another run.
    """
    if not (folder / CONFIG).exists():
        return None
    lens = load_tuned_lens(folder, model)
    told = lens.settings
    same = {k: told.get(k) for k in identity}
    same["config"] = {**(same["config"] or {}), "checkpoint_every": 0}
    if same != identity:
        raise MismatchError(f"{folder} holds a tuned lens of other settings or other text; choose "
                            "another folder, or delete it")  # fmt: skip
    return lens


def unembedding_hash(model: "Model") -> str | None:
    """tuned-lens' mark of an unembedding: sha256 of numpy's rounded print of its corners."""
    module: Any = getattr(model, "module", None)
    if module is None:
        return None
    matrix = module.get_output_embeddings().weight.detach().cpu()
    values = (matrix.float() if matrix.dtype is torch.bfloat16 else matrix).numpy()
    with np.printoptions(edgeitems=3, threshold=1000, linewidth=75, suppress=False):
        return hashlib.sha256(np.array_str(values, precision=1).encode()).hexdigest()


def _save_peer(lens: TunedLens, place: Path) -> Path:
    card = lens.model.card
    if lens.layers != tuple(range(-1, card.n_layers - 1)):
        raise ConfigError(
            f"tuned-lens has a map for the embeddings and every block but the last; this lens has "
            f"layers {list(lens.layers)}. Capture blocks.0.resid_pre and every resid_post"
        )
    state = {f"{i}.weight": w.clone() for i, w in enumerate(lens.weight)}
    state |= {f"{i}.bias": b.clone() for i, b in enumerate(lens.bias)}
    with io.atomic_path(place / PEER_WEIGHTS) as temp:
        torch.save(state, temp)
    io.write_json(
        place / CONFIG,
        {
            "base_model_name_or_path": card.source or card.name,
            "d_model": card.d_model,
            "num_hidden_layers": card.n_layers,
            "bias": True,
            "base_model_revision": card.revision,
            "unembed_hash": unembedding_hash(lens.model),
            "lens_type": "linear_tuned_lens",
        },
    )
    return place


def _load_peer(
    place: Path, config: dict[str, Any], model: "Model", *, check_unembedding: bool
) -> TunedLens:
    card = model.card
    n, d = config.get("num_hidden_layers"), config.get("d_model")
    if (n, d) != (card.n_layers, card.d_model):
        raise MismatchError(
            f"the lens in {place} is of {config['base_model_name_or_path']} ({n} layers, width "
            f"{d}), not of {card.name} ({card.n_layers} layers, width {card.d_model})"
        )
    if config.get("lens_type", "linear_tuned_lens") != "linear_tuned_lens":
        raise DamagedDataError(f"{place} holds a lens of type {config['lens_type']!r}; only "
                               "linear_tuned_lens is known")  # fmt: skip
    told, own = config.get("unembed_hash"), unembedding_hash(model)
    if check_unembedding and told and own and told != own:
        raise MismatchError(
            f"the lens in {place} was trained with another unembedding than that of {card.name} "
            "(hashes differ); if it is the same in another precision, pass check_unembedding=False"
        )
    state = _peer_state(place)
    named = {f"{i}.weight": (d, d) for i in range(card.n_layers)}
    if config.get("bias", True):
        named |= {f"{i}.bias": (d,) for i in range(card.n_layers)}
    found = {k: tuple(v.shape) if isinstance(v, Tensor) else None for k, v in state.items()}
    if found != named:
        odd = sorted(k for k in {*found, *named} if found.get(k) != named.get(k))
        raise DamagedDataError(f"the weights in {place} differ from its config in "
                               f"{', '.join(odd[:6])}{'...' if len(odd) > 6 else ''}")  # fmt: skip
    weight = torch.stack([state[f"{i}.weight"].float() for i in range(card.n_layers)])
    zero = torch.zeros(card.d_model)
    bias = torch.stack([state.get(f"{i}.bias", zero).float() for i in range(card.n_layers)])
    settings = {"source_format": "tuned_lens", "peer": config}
    return TunedLens(model, tuple(range(-1, card.n_layers - 1)), weight, bias, settings)


def _peer_state(place: Path) -> dict[str, Any]:
    if (place / PEER_SAFE).exists():
        return dict(io.read_tensors(place / PEER_SAFE))
    if not (place / PEER_WEIGHTS).exists():
        raise MissingDataError(f"{place} has neither {PEER_SAFE} nor {PEER_WEIGHTS}")
    try:
        return io.read_torch(place / PEER_WEIGHTS)
    except DamagedDataError as error:
        hint = f"or write its tensors to {PEER_SAFE} with safetensors, which is read first"
        raise DamagedDataError(f"{error}, {hint}") from error


def checkpoint_path(folder: Path) -> Path:
    """Where a run keeps its state."""
    return folder / "checkpoint.safetensors"


def write_checkpoint(
    folder: Path, tensors: dict[str, Tensor], losses: np.ndarray, identity: Any, position: Any
) -> None:
    """All of a run's state in one file, so that its parts belong together."""
    note = json.dumps({"identity": identity, "position": position}).encode()
    arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
    arrays |= {"losses": losses, "note": np.frombuffer(note, np.uint8)}
    io.write_arrays(checkpoint_path(folder), arrays)


def read_checkpoint(
    folder: Path, identity: Any
) -> tuple[dict[str, Tensor], np.ndarray, dict[str, Any]] | None:
    """Tensors, losses and position of the checkpoint in ``folder``; None where there is none.

    Raises:
        MismatchError: a checkpoint of another run.
    """
    path = checkpoint_path(folder)
    if not path.exists():
        return None
    arrays = io.read_arrays(path)
    note = json.loads(arrays.pop("note").tobytes())
    if note["identity"] != identity:
        raise MismatchError(f"{path} belongs to a run of other settings, another model or other "
                            "text; choose another folder, or delete it")  # fmt: skip
    losses = arrays.pop("losses")
    return {k: torch.from_numpy(v) for k, v in arrays.items()}, losses, note["position"]
