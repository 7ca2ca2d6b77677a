"""How close two sets of directions are: one-way (MMCS) and one-to-one (Hungarian) cosines."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lensbench.errors import MismatchError


class Matching(NamedTuple):
    """A one-to-one assignment of as many rows as the smaller set has."""

    a: Int[Tensor, " pairs"]
    """Rows of the first set, ascending."""
    b: Int[Tensor, " pairs"]
    """Their partners in the second set."""
    cosine: Float[Tensor, " pairs"]
    """Signed cosine of every pair."""


def cosines(a: Float[Any, "n d"], b: Float[Any, "m d"]) -> Float[Tensor, "n m"]:
    """cos(a_i, b_j), in float64; a zero vector has cosine 0 to everything.

    Raises:
        MismatchError: not two matrices of one width, or an empty one.
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    shapes = tuple(a.shape), tuple(b.shape)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not (a.numel() and b.numel()):
        raise MismatchError(
            f"cosines need two matrices [directions, d_model] of one width, got {shapes[0]} and "
            f"{shapes[1]}; decoder directions are the rows of W_dec"
        )
    first, second = (nn.functional.normalize(x.detach().cpu().double(), dim=1) for x in (a, b))
    return first @ second.T


def mmcs(a: Float[Any, "n d"], b: Float[Any, "m d"]) -> float:
    """Mean max cosine similarity from ``a`` to ``b``: mean_i max_j cos(a_i, b_j), in [-1, 1].

    The direction matters: from atoms to latents it asks whether every atom was found, from latents
    to atoms whether every latent is an atom. The sign counts, and many may share a partner.
    Source: Sharkey et al. 2022; Cunningham et al. 2023, arXiv:2309.08600.

    Raises:
        MismatchError: not two matrices of one width.
    """
    return float(cosines(a, b).amax(1).mean())


def hungarian(a: Float[Any, "n d"], b: Float[Any, "m d"], *, signed: bool = True) -> Matching:
    """The one-to-one matching with the largest sum of cosines (``signed=False``: of |cosines|).

    The mean of |cosine| over the unsigned matching is the mean correlation coefficient, ``mcc``.
    Source: Kuhn 1955, as in scipy; MCC: Song et al. 2025, arXiv:2505.20254.

    Raises:
        MismatchError: not two matrices of one width.
    """
    from scipy.optimize import linear_sum_assignment

    table = cosines(a, b)
    rows, columns = linear_sum_assignment((table if signed else table.abs()).numpy(), maximize=True)
    i, j = torch.from_numpy(rows), torch.from_numpy(columns)
    return Matching(i, j, table[i, j])


def mcc(a: Float[Any, "n d"], b: Float[Any, "m d"]) -> float:
    """Mean |cosine| over the unsigned Hungarian matching, in [0, 1].

    Equivalent to ``sae_lens.synthetic.mean_correlation_coefficient``; see :func:`hungarian`.

    Raises:
        MismatchError: not two matrices of one width.
    """
    return float(hungarian(a, b, signed=False).cosine.abs().mean())


def uniqueness(latents: Float[Any, "n d"], atoms: Float[Any, "m d"]) -> float:
    """Different atoms that are some latent's nearest by |cosine|, per latent, in (0, 1].

    Equivalent to ``sae_lens.synthetic.feature_uniqueness``.

    Raises:
        MismatchError: not two matrices of one width.
    """
    nearest = cosines(latents, atoms).abs().argmax(1)
    return len(nearest.unique()) / len(nearest)
