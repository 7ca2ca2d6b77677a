"""Kangaroo's rounds from a store: the adapter reads the stored exit states, no block runs.

What the adapter says of accepted text depends on exit states of that text alone, so accepted tokens
are exact; what it drafted after a confident miss is bounded only.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from lensbench.interventions.acceleration.study.lens_table import LensTable
from lensbench.interventions.acceleration.study.own import refuse_inexact
from lensbench.interventions.acceleration.study.simulate import rounds_of
from lensbench.interventions.acceleration.study.trace import Trace
from lensbench.models.base import Model
from lensbench.sites import Site

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

Drafts = dict[str, np.ndarray]
"""What an adapter says at every column of a table: ``best``, ``top1``, and its ``exit_layer``."""


def adapter_drafts(
    store: "ActivationStore", model: Model, table: LensTable, adapter: KangarooAdapter
) -> Drafts:
    """Choice and probability of an adapter at every token of the table.

    Raises:
        MismatchError: an adapter of another model.

    Example:
        >>> adapter = acceleration.train_kangaroo(
        ...     own, early, exit_layer=2, config={"steps": 2, "holdout": 0.5}
        ... )
        >>> table = acceleration.lens_table(own, early)
        >>> drafts = acceleration.adapter_drafts(own, early, table, adapter)
    """
    adapter.check_model(model)
    site = Site("resid_post", adapter.exit_layer - 1)
    docs = store.index().doc_ids
    best, top1 = np.zeros_like(table.target), np.zeros(table.target.shape, dtype=np.float32)
    for document in table.documents():
        rows = np.flatnonzero(docs == document.number)[:-1]
        states = torch.from_numpy(store.rows(site, rows))[None].to(adapter.norm.weight.device)
        with torch.inference_mode():
            found = adapter.logits(states)[0].float().softmax(-1).max(-1)
        best[document.columns] = found.indices.cpu().numpy()
        top1[document.columns] = found.values.cpu().numpy()
    return {"best": best, "top1": top1, "exit_layer": np.array([adapter.exit_layer])}


def sim_kangaroo(
    table: LensTable, drafts: Drafts, threshold: float = 0.6, most: int = 6, *, exact: bool = True
) -> list[Trace]:
    """Rounds of :func:`kangaroo` on every document.

    Source: Liu et al. 2024 (Kangaroo).

    Args:
        table: of a store of own text.
        drafts: of :func:`adapter_drafts`.
        threshold: a draft ends with the first token of less probability; it is checked too.
        most: tokens drafted per round at most.
        exact: refuse a table of other text; False makes a proxy of it.

    Raises:
        MismatchError: an exact prediction from other text than the model's own.

    Example:
        >>> adapter = acceleration.train_kangaroo(
        ...     own, early, exit_layer=2, config={"steps": 2, "holdout": 0.5}
        ... )
        >>> table = acceleration.lens_table(own, early)
        >>> drafts = acceleration.adapter_drafts(own, early, table, adapter)
        >>> told = acceleration.sim_kangaroo(table, drafts)
    """
    if exact:
        refuse_inexact(table.inexact)
    layer, rule = int(drafts["exit_layer"][0]), ConfidenceStop(threshold, most)
    agrees = drafts["best"] == table.chosen
    return [
        rounds_of(d, layer, d.of(agrees), d.of(drafts["top1"]), rule) for d in table.documents()
    ]
