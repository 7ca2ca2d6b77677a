"""Estimates of edges beside the edges themselves, exchanged one at a time.

``denoise``: the corrupted run in which one reader is given one writer's clean share; ``noise``: the
clean run in which it is given the corrupted share. Either is a circuit of all other edges that is
really run, so that what the reader makes of it reaches all that follows.
"""

import time
from typing import TYPE_CHECKING

import numpy as np

from lensbench import provenance
from lensbench.arguments import positive_number
from lensbench.interventions.attribution.asked import belongs, known_metric
from lensbench.interventions.attribution.check import (
    AttributionCheck,
    called_small,
    with_control,
)
from lensbench.interventions.attribution.edge_result import EdgeResult
from lensbench.interventions.attribution.faithful import Runs
from lensbench.interventions.metrics import MetricLike
from lensbench.stats import pick

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs


def check_edges(
    result: EdgeResult, model: "Model", pairs: "PromptPairs", *, top: int, random: int,
    large: float, metric: MetricLike | None, batch_size: int, seed: int,
) -> AttributionCheck:  # fmt: skip
    """See :meth:`EdgeResult.verify`."""
    began = time.monotonic()
    belongs(result, model, pairs)
    large = positive_number("large", large)
    picked, chosen = pick(result.strongest(), top, random, seed)
    asked = known_metric(result.metric, metric)
    runs = Runs(model, pairs, asked, batch_size, swap=result.direction == "denoise")
    kept, base = np.ones(len(result.edges), dtype=bool), runs.ends[0]
    measured = np.empty((len(picked), len(pairs)))
    for i, edge in enumerate(picked):
        kept[edge] = False
        measured[i] = runs.measure(kept) - base
        kept[edge] = True
    other = result.other[picked] if len(result.other) else result.other
    done = AttributionCheck(
        task=result.task, method=result.method, unit=result.unit,
        place=tuple(result.names[i] for i in picked), chosen=chosen, number=picked,
        estimated=result.values[picked], measured=measured, other=other,
        gap=result.gap, signed=True, large=large,
        n_small=called_small(result.change, large, picked, chosen),
        config={**result.config, "top": top, "random": random, "verify_seed": seed},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    return with_control(done)
