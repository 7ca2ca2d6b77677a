"""Sums of a product ``(source - base) * gradient`` over the slice that each place means.

Every place of a site is read off one tensor at once; nothing loops over prompts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from lensbench.interventions.places import Place
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import PATTERN_AXES, Site

Products = Callable[[Place], Tensor]
"""The product that a place is a slice of, in site layout."""


def summed(products: Products, where: Sequence[Place], pairs: PromptPairs) -> np.ndarray:
    """The sum of the product over each place, ``[places, pairs]``; NaN where a prompt lacks it."""
    found = np.full((len(where), len(pairs)), np.nan)
    alike: dict[tuple[Site, bool, bool, bool], list[int]] = {}
    for i, place in enumerate(where):
        whole = (place.position is None, place.head is None, place.dim is None)
        alike.setdefault((place.site, *whole), []).append(i)
    for (site, *whole), members in alike.items():
        chosen = [where[i] for i in members]
        x = _arranged(products(chosen[0]), site).detach().double()
        axes = [axis for axis, every in enumerate(whole, 1) if every]
        table = (x.sum(axes, keepdim=True) if axes else x).cpu().numpy()
        found[members] = _read(table, chosen, pairs, int(x.shape[1]))
    return found


def _arranged(x: Tensor, site: Site) -> Tensor:
    """As ``batch pos head dim``: queries are positions; slots of experts are summed as heads."""
    if site.spec.axes == PATTERN_AXES:
        return x.transpose(1, 2)
    return x[:, :, None] if x.ndim == 3 else x


def _read(table: np.ndarray, where: Sequence[Place], pairs: PromptPairs, width: int) -> np.ndarray:
    columns = np.array([[_column(p, pairs, r, width) for r in range(len(pairs))] for p in where])
    heads, dims = (np.array([[getattr(p, n) or 0] for p in where]) for n in ("head", "dim"))
    found = table[np.arange(len(pairs))[None], np.maximum(columns, 0), heads, dims]
    return np.where(columns < 0, np.nan, found)


def _column(place: Place, pairs: PromptPairs, row: int, width: int) -> int:
    """Column of the place in a batch padded on the left; -1 where the prompt has no such token."""
    if place.position is None:
        return 0
    at = place.at(pairs, row)
    assert at is not None  # a position was named
    if at < 0:
        return -1 if isinstance(place.position, str) else width + at
    return width - len(pairs.clean_ids[row]) + at
