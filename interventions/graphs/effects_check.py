"""Effects of latents and errors beside the nodes themselves, taken to their base one at a time.

A node is set to its base (zero, or its state in the corrupted run) at every token; all other
latents and errors are what the run then makes of them. The estimate of that change is ``-effect``.
"""

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import provenance
from lensbench.arguments import positive_number
from lensbench.interventions.attribution.asked import belongs, known_metric
from lensbench.interventions.attribution.check import (
    AttributionCheck,
    called_small,
    with_control,
)
from lensbench.interventions.attribution.result import normalised
from lensbench.interventions.graphs.curves import LatentRuns
from lensbench.interventions.graphs.effects_result import LatentEffects
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.stats import pick

if TYPE_CHECKING:
    from lensbench.models.base import Model
    from lensbench.prompts.pairs import PromptPairs


def check_latents(
    found: LatentEffects, model: "Model", pairs: "PromptPairs", saes: Any, *, top: int, random: int,
    large: float, metric: MetricLike | None, batch_size: int, seed: int,
) -> AttributionCheck:  # fmt: skip
    """See :meth:`LatentEffects.verify`."""
    began = time.monotonic()
    belongs(found, model, pairs)
    large = positive_number("large", large)
    picked, chosen = pick(found.strongest(), top, random, seed)
    asked = as_metric(known_metric(found.metric, metric))
    runs = LatentRuns(model, pairs, found, saes, asked, batch_size)
    one = np.zeros(len(found.latent), dtype=bool)
    gap = runs.measure(one) - runs.clean  # every node at its base
    measured = np.empty((len(picked), len(pairs)))
    for i, node in enumerate(picked):
        one[node] = True
        measured[i] = runs.measure(one, rest=True) - runs.clean
        one[node] = False
    change = normalised(-found.values, gap, signed=True)[0]
    names = found.names
    return with_control(AttributionCheck(
        task=found.task, method=found.method, unit=found.unit,
        place=tuple(names[i] for i in picked), chosen=chosen, number=picked,
        estimated=-found.values[picked], measured=measured,
        other=-found.other[picked] if len(found.other) else found.other,
        gap=gap, signed=True, large=large, n_small=called_small(change, large, picked, chosen),
        config={**found.config, "top": top, "random": random, "verify_seed": seed},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    ))  # fmt: skip
