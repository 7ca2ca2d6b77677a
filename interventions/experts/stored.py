"""Maps of routing from a store: the model is not run.

Capture ``router.weights`` and ``router.indices`` of every block that has a router; a document of
the store is what a prompt is to :func:`~lensbench.interventions.experts.maps.routing`.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import refuse_no_model
from lensbench.errors import ConfigError
from lensbench.interventions.experts.maps import RoutingMaps
from lensbench.interventions.experts.rows import moe_layers
from lensbench.models.base import Model
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

_TILE = 1 << 14
"""Rows read at a time."""


def stored_routing(store: "ActivationStore", model: Model) -> RoutingMaps:
    """Which experts the tokens of every stored document were routed to.

    Equivalent to ``routing`` over the same documents, up to the precision of the stored weights.
    The model is asked for its layers and experts only.

    Raises:
        MissingDataError: the store lacks the routing of a layer; says how to add it.
        MismatchError: the store holds another model's activations.
        ConfigError: a model without experts, or an empty store.

    Example:
        >>> texts = [moe.tokenizer.decode(ids) for ids in desk_ids]
        >>> routed = lensbench.capture(
        ...     moe, texts, ["blocks.*.router.weights", "blocks.*.router.indices"], out="routed"
        ... )
        >>> maps = experts.stored_routing(routed, moe)
    """
    began = time.monotonic()
    refuse_no_model(model)
    layers, n_experts = moe_layers(model), model.card.n_experts
    store.check_model(model.card)
    store.require([str(Site(f"router.{p}", i)) for i in layers for p in ("weights", "indices")])
    docs = np.asarray(store.index().doc_ids)
    if not len(docs):
        raise ConfigError(f"the store in {store.url} holds no rows")
    doc = np.unique(docs, return_inverse=True)[1]
    n_tokens = np.bincount(doc)
    shape = (len(n_tokens), len(layers), n_experts)
    counts, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    together = np.zeros((len(layers), n_experts, n_experts), dtype=np.int64)
    for start in range(0, len(doc), _TILE):
        rows = np.arange(start, min(start + _TILE, len(doc)))
        for number, layer in enumerate(layers):
            w, i = (store.rows(Site(f"router.{p}", layer), rows) for p in ("weights", "indices"))
            dense = _dense(w.astype(np.float64), i, n_experts)
            chosen = _dense((w != 0).astype(np.float64), i, n_experts).clip(max=1)
            np.add.at(weights[:, number], doc[rows], dense)
            np.add.at(counts[:, number], doc[rows], chosen.astype(np.int64))
            together[number] += (chosen.T @ chosen).astype(np.int64)
    return RoutingMaps(
        layers=np.array(layers), counts=counts, weights=weights, n_tokens=n_tokens,
        lengths=n_tokens.copy(), together=together, top_k=model.card.top_k,
        config={"store": store.url, "positions": None},
        provenance=provenance.record(
            model=vars(model.card), seconds=time.monotonic() - began, store=store
        ),
    )  # fmt: skip


def _dense(
    values: Float[np.ndarray, "rows slot"], indices: Float[np.ndarray, "rows slot"], n_experts: int
) -> Float[np.ndarray, "rows n_experts"]:
    """``[rows, slot]`` as ``[rows, n_experts]``."""
    found = np.zeros((len(values), n_experts))
    slots: Int[np.ndarray, "rows slot"] = indices.round().astype(np.int64)
    np.add.at(found, (np.arange(len(values))[:, None], slots), values)
    return found
