"""Subspaces: orthonormal bases, and their parts that the next map reads or ignores."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError

RANK = 1e-5
"""Singular values below this share of the largest count as zero."""


def matrix_of(name: str, values: Any) -> Tensor:
    """Numbers of any library, type and device, in float64 on the CPU.

    Raises:
        ConfigError: no numbers.
        NonFiniteError: NaN or infinity.
    """
    try:
        given = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be an array of numbers, got {values!r}") from error
    if given.is_complex():
        raise ConfigError(f"{name} must be real numbers, got {given.dtype}")
    found = given.detach().cpu().double()
    if not bool(found.isfinite().all()):
        raise NonFiniteError(f"{name} hold NaN or infinity")
    return found


def basis_of(
    directions: Float[Tensor, "k d"] | Float[np.ndarray, "k d"], width: int
) -> Float[Tensor, "d rank"]:
    """Orthonormal basis of the span of some directions (one vector is a span of one).

    Raises:
        ConfigError: directions of another width, or none that is not zero.
        NonFiniteError: NaN or infinity.
    """
    rows = matrix_of("directions", directions)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != width:
        turned = "; its transpose would do" if rows.ndim == 2 and len(rows) == width else ""
        raise ConfigError(f"directions must be [k, {width}] here, got {list(rows.shape)}{turned}")
    found = _orthonormal(rows)
    if not found.shape[1]:
        raise ConfigError("all directions are zero; there is no subspace to patch")
    return found


def split(
    basis: Float[Tensor, "d k"], reads: Float[Tensor, "d m"]
) -> tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]]:
    """Parts of the basis vectors in the row space of the next map, and in its null space.

    ``h @ reads`` is what the map makes of ``h``; a direction n with ``n @ reads = 0`` is in the
    null space: it can vary as it likes and nothing behind the site can tell.
    """
    u, s, _ = torch.linalg.svd(reads.double(), full_matrices=False)
    seen = u[:, s > RANK * s.max()]
    row = seen @ (seen.T @ basis)
    return row, basis - row


def orthonormal(vectors: Float[Tensor, "d k"]) -> Float[Tensor, "d rank"]:
    """Orthonormal basis of the columns; no columns where all are zero beside unit length."""
    return _orthonormal(vectors.T)


def _orthonormal(rows: Tensor) -> Tensor:
    _, s, vh = torch.linalg.svd(rows, full_matrices=False)
    largest = float(s.max()) if s.numel() else 0.0
    # Parts of unit vectors: what is left of one that lies wholly elsewhere is rounding.
    return (
        vh[s > max(RANK * largest, 1e-9)].T if largest > 1e-9 else rows.new_zeros(rows.shape[1], 0)
    )
