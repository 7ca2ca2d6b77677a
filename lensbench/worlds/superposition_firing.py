"""Which atoms fire together: Gaussian copula inside groups, children only with their parents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_NODES = 64  # of the quadrature over a group's factor


def chains(n_atoms: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Every atom with its ancestors, nearest first.

    Raises:
        ValueError: an atom that is not there, two parents, or a circle.
    """
    parent: dict[int, int] = {}
    for child, above in pairs:
        if not (0 <= child < n_atoms and 0 <= above < n_atoms):
            raise ValueError(f"hierarchy names ({child}, {above}); atoms are 0 .. {n_atoms - 1}")
        if child in parent:
            raise ValueError(f"atom {child} has the parents {parent[child]} and {above}; give one")
        parent[child] = above
    found: list[list[int]] = []
    for atom in range(n_atoms):
        chain = [atom]
        while chain[-1] in parent:
            chain.append(parent[chain[-1]])
            if len(chain) > len(parent) + 1:
                raise ValueError(f"hierarchy runs in a circle through atom {atom}; cut it")
        found.append(chain)
    return found


class Firing:
    """Draws which atoms fire, and knows how often they do."""

    def __init__(
        self,
        probabilities: Float[np.ndarray, " n_atoms"],
        correlation: float,
        group: int,
        lineage: list[list[int]],
    ) -> None:
        self._p, self._rho, self._lineage = probabilities, correlation, lineage
        self._groups = np.arange(len(probabilities)) // group
        self._thresholds = torch.special.ndtri(torch.from_numpy(probabilities)).float()
        # Parents before children: an atom's own chain is longer than its parent's.
        order = sorted(range(len(lineage)), key=lambda i: len(lineage[i]))
        self._links = [(i, lineage[i][1]) for i in order if len(lineage[i]) > 1]

    def draw(self, rows: int, rng: torch.Generator) -> Bool[Tensor, "rows n_atoms"]:
        """Which atoms fire in each of ``rows`` independent rows."""
        if self._rho:
            own = torch.randn(rows, len(self._p), generator=rng)
            shared = torch.randn(rows, int(self._groups[-1]) + 1, generator=rng)
            factor = shared[:, torch.from_numpy(self._groups)]
            on = math.sqrt(self._rho) * factor + math.sqrt(1 - self._rho) * own < self._thresholds
        else:
            on = torch.rand(rows, len(self._p), generator=rng) < torch.from_numpy(self._p).float()
        for child, parent in self._links:
            on[:, child] &= on[:, parent]
        return on

    def rates(self) -> Float[np.ndarray, " n_atoms"]:
        """Probability that an atom and all its ancestors fire."""
        return np.array([self._joint(chain) for chain in self._lineage])

    def _joint(self, chain: list[int]) -> float:
        if len(chain) == 1 or not self._rho:
            return float(np.prod(self._p[chain]))
        groups = self._groups[chain]
        parts = [[a for a, g in zip(chain, groups, strict=True) if g == k] for k in set(groups)]
        return float(np.prod([self._together(part) for part in parts]))

    def _together(self, atoms: list[int]) -> float:
        """E over the group's factor g of prod_i Phi((t_i - sqrt(rho) g) / sqrt(1 - rho))."""
        from scipy.stats import norm

        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        cut = norm.ppf(self._p[atoms])[:, None] - math.sqrt(self._rho) * nodes
        fires = norm.cdf(cut / math.sqrt(1 - self._rho)).prod(0)
        return float(weights @ fires / weights.sum())
