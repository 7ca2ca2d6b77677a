"""Tensors of a checkpoint: one file, or one for each rank that held some of the latents.

Why not ``torch.distributed.checkpoint``: its metadata is a pickle, and its safetensors writer
leaves neither checksums nor a mark that all ranks were done. Here ``state.json``, written last,
lists the shards with the latents and the sha256 of each, so that any number of ranks, one
included, can go on from them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lensbench import io
from lensbench.errors import DamagedDataError, MissingDataError
from lensbench.saes.step.group import Group

WHOLE = "state.safetensors"
BY_LATENT = ("W_enc", "b_enc", "W_dec", "since_fired", "dead")
"""Tensors with latents first, of the architectures that can be divided."""


def arrays(group: Group, i: int) -> dict[str, np.ndarray]:
    """Everything of dictionary ``i`` that is here."""
    return {
        name: tensor.detach().to("cpu").reshape(tensor.shape or (1,)).numpy()
        for name, tensor in group.tensors(i).items()
    }


def write(into: Path, group: Group, i: int, span: slice, rank: int, world: int) -> None:
    """Write the latents ``span`` of dictionary ``i``, and beside them what they are."""
    name = f"state-{rank + 1}-of-{world}"
    io.write_arrays(into / f"{name}.safetensors", arrays(group, i))
    digest = io.sha256_file(into / f"{name}.safetensors")
    facts = {
        "file": f"{name}.safetensors",
        "start": span.start,
        "stop": span.stop,
        "sha256": digest,
    }
    io.write_json(into / f"{name}.json", facts)


def listed(into: Path, world: int) -> list[dict[str, Any]]:
    """What all ranks wrote, in the order of their latents."""
    return [io.read_json(into / f"state-{rank + 1}-of-{world}.json") for rank in range(world)]


def read(where: Path, span: slice | None = None, *, moments: bool = True) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint; of the latents ``span`` only, and without moments, if so asked.

    Raises:
        MissingDataError: a file of it is not there.
        DamagedDataError: a file is not what was written.
    """
    body = io.read_json(where / "state.json")
    if "shards" not in body:
        found = _checked(where, WHOLE, body["sha256"])
        return found if span is None else _rows(found, span, 0)
    parts = [_part(where, facts, span) for facts in _needed(body["shards"], span)]
    return {
        name: np.concatenate([p[name] for p in parts]) if _by_latent(name) else value
        for name, value in parts[0].items()
        if moments or not name.startswith(("first.", "second."))
    }


def _needed(listed: list[dict[str, Any]], span: slice | None) -> list[dict[str, Any]]:
    """Shards with latents of ``span``; the first where that is empty."""
    if span is None:
        return listed
    inside = [s for s in listed if s["start"] < span.stop and span.start < s["stop"]]
    return inside or listed[:1]


def _part(where: Path, facts: dict[str, Any], span: slice | None) -> dict[str, np.ndarray]:
    found = _checked(where, facts["file"], facts["sha256"])
    return found if span is None else _rows(found, span, facts["start"])


def _rows(found: dict[str, np.ndarray], span: slice, first: int) -> dict[str, np.ndarray]:
    a, b = max(0, span.start - first), max(0, span.stop - first)
    return {name: value[a:b] if _by_latent(name) else value for name, value in found.items()}


def _by_latent(name: str) -> bool:
    return name.rpartition(".")[2] in BY_LATENT


def _checked(where: Path, file: str, digest: str) -> dict[str, np.ndarray]:
    path = where / file
    if not path.is_file():
        raise MissingDataError(f"no file {path}; remove {where} to resume from an older step")
    if io.sha256_file(path) != digest:
        raise DamagedDataError(
            f"{path} is damaged (sha256 differs); remove {where} to resume from an older step"
        )
    return io.read_arrays(path)
