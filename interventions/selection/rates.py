"""How often latents fire in two classes, group by group, and what chance makes of the maximum.

1. A latent fires where its activation is above the threshold.
2. Labels are moved between entities that appear in the same groups, all prompts of an entity
   together: prompts of one entity are not independent, and neither are groups that share entities.
3. Of every relabelling only the greatest general score of all latents is kept.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.errors import NotEnoughDataError

_AT_ONCE = 4096
"""Latents held in float32 at a time."""


def frequencies(
    fires: Bool[np.ndarray, "prompts latents"],
    first: Bool[np.ndarray, " prompts"],
    group: Int[np.ndarray, " prompts"],
) -> tuple[Float[np.ndarray, "2 groups latents"], Int[np.ndarray, "2 groups"]]:
    """Share of prompts on which each latent fires, by class and group, and the prompts of each.

    Raises:
        NotEnoughDataError: a group without prompts of one class.
    """
    n_groups = int(group.max()) + 1
    found = np.zeros((2, n_groups, fires.shape[1]))
    n = np.zeros((2, n_groups), dtype=np.int64)
    for side, mine in enumerate((first, ~first)):
        for g in range(n_groups):
            rows = mine & (group == g)
            n[side, g] = rows.sum()
            if not n[side, g]:
                raise NotEnoughDataError(
                    f"group {g} has no prompt of class {side}: every group needs both classes"
                )
            found[side, g] = fires[rows].mean(0)
    return found, n


def general(
    frequency: Float[np.ndarray, "2 groups latents"],
) -> Float[np.ndarray, "2 latents"]:
    """The separation that holds in every group, for each class: ``min_g (f_own,g - f_other,g)``.

    -1 to 1. Source: Ferrando et al. 2024, arXiv:2411.14257 (there MaxMin over entity types).
    """
    difference = frequency[0] - frequency[1]
    return np.stack([difference.min(0), (-difference).min(0)])


def null_maxima(
    fires: Bool[np.ndarray, "prompts latents"],
    first: Bool[np.ndarray, " prompts"],
    group: Int[np.ndarray, " prompts"],
    entity: Sequence[Any] | np.ndarray,
    permutations: int,
    seed: int = 0,
) -> Float[np.ndarray, "permutations 2"]:
    """Greatest general score over all latents under each relabelling, for each class."""
    labels = relabellings(first, group, entity, permutations, seed)
    best = np.full((permutations, 2), -1.0)
    for start in range(0, fires.shape[1], _AT_ONCE):
        part = fires[:, start : start + _AT_ONCE].astype(np.float32)
        low = high = None
        for g in range(int(group.max()) + 1):
            rows = group == g
            mine = labels[:, rows].astype(np.float32)
            weights = mine / mine.sum(1, keepdims=True)
            weights -= (1 - mine) / (1 - mine).sum(1, keepdims=True)
            difference = weights @ part[rows]
            low = difference if low is None else np.minimum(low, difference)
            high = difference if high is None else np.maximum(high, difference)
        if low is not None and high is not None:
            best = np.maximum(best, np.stack([low.max(1), (-high).max(1)], 1))
    return best


def relabellings(
    first: Bool[np.ndarray, " prompts"],
    group: Int[np.ndarray, " prompts"],
    entity: Sequence[Any] | np.ndarray,
    permutations: int,
    seed: int = 0,
) -> Bool[np.ndarray, "permutations prompts"]:
    """Labels moved at random between entities that appear in the same groups.

    Raises:
        NotEnoughDataError: no entity has another to change labels with.
    """
    _, unit = np.unique(np.asarray(entity), return_inverse=True)
    n_units = int(unit.max()) + 1
    of = np.zeros(n_units, dtype=bool)
    of[unit] = first
    seen = np.zeros((n_units, int(group.max()) + 1), dtype=bool)
    seen[unit, group] = True
    _, stratum = np.unique(seen, axis=0, return_inverse=True)
    members = [np.flatnonzero(stratum == s) for s in range(int(stratum.max()) + 1)]
    if all(of[m].all() or not of[m].any() for m in members):
        raise NotEnoughDataError(
            "labels cannot be permuted: entities that appear in the same groups are all of one "
            "class"
        )
    rng = np.random.default_rng(seed)
    found = np.empty((permutations, len(first)), dtype=bool)
    for i in range(permutations):
        drawn = of.copy()
        for m in members:
            drawn[m] = rng.permutation(of[m])
        found[i] = drawn[unit]
    return found


def p_values(
    score: Float[np.ndarray, "2 latents"], null: Float[np.ndarray, "permutations 2"]
) -> Float[np.ndarray, "2 latents"]:
    """``(1 + relabellings whose greatest score of either class reaches s) / (1 + relabellings)``.

    Corrected for the choice among all latents and both classes. NaN where the score is.
    """
    greatest = np.sort(null.max(1))
    reached = len(greatest) - np.searchsorted(greatest, score - 1e-6)  # float32 rounding is a tie
    return np.where(np.isnan(score), np.nan, (1 + reached) / (1 + len(greatest)))
