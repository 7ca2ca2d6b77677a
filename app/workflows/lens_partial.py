"""What a lens can read of a store that lacks the last layer: the layers that are there."""

from typing import TYPE_CHECKING

import numpy as np

from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.probes.lenses.states import LensStates
    from lensbench.store import ActivationStore


def stored_layers(store: "ActivationStore") -> tuple[int, ...]:
    """Blocks whose output is in the store, the last one or not."""
    sites = [Site.parse(name) for name in store.sites]
    return tuple(sorted(s.layer for s in sites if s.name == "resid_post" and s.layer is not None
                        and not s.stack))  # fmt: skip


def partial_states(store: "ActivationStore", row: int, max_tokens: int) -> "LensStates":
    """As ``states_of_store``, of a store whose last layer is missing: the layers that are there."""
    import torch

    from lensbench.probes.lenses.states import LensStates

    layers, found = stored_layers(store), store.sequence_of(row)
    ids, rows = found.tokens.ids[0].numpy(), found.rows[0]
    columns = np.flatnonzero(rows >= 0)
    here = int(np.flatnonzero(rows[columns] == row)[0])
    size = min(max_tokens, len(columns))
    first = min(max(0, here - size // 2), len(columns) - size)
    shown = columns[first : first + size]
    states = [torch.from_numpy(store.rows(Site("resid_post", n), rows[shown])) for n in layers]
    follows = np.append(ids[1:], -1)[shown]
    left = len(columns) - size
    return LensStates(torch.stack(states), layers, ids[shown], follows, shown, left)
