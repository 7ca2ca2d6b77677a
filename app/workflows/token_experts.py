"""The experts that a stored token was sent to, read from the routing in its store."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import hold_store
from lensbench.errors import ConfigError, LensbenchError, MissingDataError
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


def expert_cell(url: str, row: int) -> pd.DataFrame:
    """Experts that this token was sent to: one row per layer and slot, with the weight if stored.

    Raises:
        MissingDataError: no ``router.indices`` in the store; says how to add them.
        ConfigError: the model has no experts.
    """
    store = hold_store(url)
    sites = [s for s in map(Site.parse, store.sites) if s.name == "router.indices"]
    if not sites:
        _explain_experts(store)
    parts: list[pd.DataFrame] = []
    for site in sites:
        weights = str(Site("router.weights", site.layer, site.stack))
        chosen = store.rows(site, [row])[0]
        part = pd.DataFrame({"layer": site.layer, "slot": range(len(chosen)),
                             "expert": chosen.round().astype(int)})  # fmt: skip
        part["weight"] = store.rows(weights, [row])[0] if weights in store.sites else np.nan
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs["units"] = {"weight": "share of the output"}
    return frame


def _explain_experts(store: "ActivationStore") -> None:
    """Either the model has no experts, or they were not captured: say which."""
    from lensbench.app.workflows.sequences import model_of
    from lensbench.store.advice import how_to_add

    try:
        card = model_of(store).model.card
    except LensbenchError:
        card = None
    if card is not None and card.n_experts == 0:
        raise ConfigError(f"{card.name} has no experts: every token takes the same path")
    wanted = ["blocks.*.router.indices", "blocks.*.router.weights"]
    add = how_to_add(wanted, store.model, store.text, store.settings, store.url)
    raise MissingDataError(f"not captured: {store.url} has no router.indices. Add with: {add}")
