"""Random experts to compare with: as many, in the same layers, about as busy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lensbench.arguments import whole_number
from lensbench.errors import NotEnoughDataError
from lensbench.interventions.experts.maps import RoutingMaps
from lensbench.interventions.experts.plans import Expert, ExpertsLike, as_experts

NEAREST = 4
"""A control is drawn among this many experts of the nearest load."""
TRIES = 8
"""Draws made for each set that is asked for."""


def matched_random(
    maps: RoutingMaps,
    experts: ExpertsLike,
    draws: int = 5,
    *,
    nearest: int = NEAREST,
    seed: int = 0,
) -> Int[np.ndarray, "draws experts 2"]:
    """Random experts matched to ``experts`` one by one on layer and routing load.

    For each expert, another one of its layer is drawn among the ``nearest`` (four) by load that are
    neither given nor drawn already, so number and layers are equal and loads alike. Pairs
    ``(layer, expert)``, in the order of ``experts``. No set comes twice, so there may be fewer
    than ``draws``.

    Raises:
        NotEnoughDataError: a layer has too few other experts.

    Example:
        >>> draws = experts.matched_random(experts.routing(moe, desk_ids), [(1, 11)], draws=3)
    """
    given, layers = as_experts(experts), maps.layers.tolist()
    whole_number("nearest", nearest, least=1)
    rng = np.random.default_rng(seed)
    n_experts = maps.load.shape[1]
    for layer in {layer for layer, _ in given}:
        inside = sum(one == layer for one, _ in given)
        if 2 * inside > n_experts:
            raise NotEnoughDataError(
                f"{inside} of the {n_experts} experts of layer {layer} are to be matched, and "
                f"only {n_experts - inside} others are left; choose fewer"
            )
    sets: dict[frozenset[Expert], list[Expert]] = {}
    for _ in range(TRIES * whole_number("draws", draws, least=0)):
        drawn = list(given)
        for i in rng.permutation(len(given)):
            layer, expert = given[i]
            load = maps.load[layers.index(layer)]
            taken = {*given, *drawn}
            free = [e for e in range(n_experts) if (layer, e) not in taken]
            near = sorted(free, key=lambda e: abs(load[e] - load[expert]))[:nearest]
            drawn[i] = (layer, int(rng.choice(near)))
        if len(sets) < draws:
            sets.setdefault(frozenset(drawn), drawn)
    return np.array(list(sets.values()), dtype=np.int64).reshape(len(sets), len(given), 2)


def load_of(maps: RoutingMaps, experts: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Load of each expert."""
    layers = maps.layers.tolist()
    return np.array([maps.load[layers.index(int(layer)), int(e)] for layer, e in experts])
