"""What each node method computes for some prompts: the estimated change of the metric per place.

1. ``atp``: ``(a_source - a_base) . d m / d a`` at the base run.
2. ``ig``: the gradient is the mean along the straight path of a whole site's activations, all else
   following; ``ig_inputs``: along the path of the token embeddings.
3. ``atp_qk`` and ``atp_star``: see :mod:`lensbench.interventions.attribution.star`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lensbench.interventions.attribution.gradients import Question, traced
from lensbench.interventions.attribution.tables import summed
from lensbench.interventions.patching.engine import pick_rows
from lensbench.interventions.places import Place
from lensbench.models.base import Acts, Model
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.progress import each
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site
from lensbench.tokens import Tokens

Rule = Literal["midpoint", "left"]
RULES: tuple[Rule, ...] = ("midpoint", "left")


@dataclass(frozen=True)
class Batch:
    """Some prompts: the run that would be patched, the states that would be patched in."""

    model: Model
    pairs: PromptPairs
    base: Tokens
    source: Tokens
    to: Acts
    """States of the source run at :attr:`read`."""
    where: Sequence[Place]
    read: Sequence[Site]
    asked: Sequence[Question]
    rows: int
    """Most rows in one pass."""


@dataclass(frozen=True)
class Path:
    """How a straight path is cut up for an integral."""

    steps: int
    rule: Rule

    def points(self) -> list[float]:
        """Shares of the way from base to source at which the gradient is taken."""
        first = 0.5 if self.rule == "midpoint" else 0.0
        return [(k + first) / self.steps for k in range(self.steps)]


@dataclass(frozen=True)
class Estimate:
    """Estimates ``[places, pairs]`` per question; for integrals what they should add up to."""

    values: list[np.ndarray]
    whole: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """By site: the sum of the estimate over all of it, ``[pairs]``."""
    rise: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """By site: the change of the metric when all of it is set to the source's, ``[pairs]``."""


def atp(batch: Batch) -> Estimate:
    """Attribution patching: two passes forward, one back (Nanda 2023; Syed et al. 2023)."""
    run = traced(batch.model, batch.base, batch.read)
    steps = {s: batch.to[s].float() - run.acts[s].float() for s in batch.read}
    values: list[np.ndarray] = []
    for question in batch.asked:
        slopes = run.slopes(question.of(run.logits).sum(), batch.read)
        values.append(_totals(batch, batch.where, steps, slopes))
    return Estimate(values)


def ig(batch: Batch, path: Path) -> Estimate:
    """Integrated gradients, each site along the path of its own activations (2017 onwards)."""
    at = batch.model.run(batch.base, capture=list(batch.read), logits="none").acts
    found = [np.full((len(batch.where), len(batch.pairs)), np.nan) for _ in batch.asked]
    whole: dict[str, np.ndarray] = {}
    rise: dict[str, np.ndarray] = {}
    for site in each(batch.read, "integrals", "site"):
        members = [i for i, p in enumerate(batch.where) if p.site == site]
        slopes = _mean_slopes(batch, path, site, at[site], batch.to[site], [site])
        step = {site: batch.to[site].float() - at[site].float()}
        for values, slope in zip(found, slopes, strict=True):
            values[members] = _totals(batch, [batch.where[i] for i in members], step, slope)
        whole[str(site)] = _everything(step[site] * slopes[0][site])
        rise[str(site)] = _rise(batch, site, batch.to[site])
    return Estimate(found, whole, rise)


def ig_inputs(batch: Batch, path: Path) -> Estimate:
    """Gradients along the path of the embeddings, at every site (Hanna et al. 2024)."""
    embed = Site("embed")
    read = list(dict.fromkeys([embed, *batch.read]))
    at, to = (batch.model.run(t, capture=read, logits="none").acts
              for t in (batch.base, batch.source))  # fmt: skip
    slopes = _mean_slopes(batch, path, embed, at[embed], to[embed], read)
    steps = {s: to[s].float() - at[s].float() for s in read}
    values = [_totals(batch, batch.where, steps, slope) for slope in slopes]
    whole = {"embed": _everything(steps[embed] * slopes[0][embed])}
    return Estimate(values, whole, {"embed": _rise(batch, embed, to[embed])})


def _mean_slopes(
    batch: Batch, path: Path, moved: Site, at: Tensor, to: Tensor, read: Sequence[Site]
) -> list[dict[Site, Tensor]]:
    """Per question: the gradient at ``read``, mean over the path of ``moved``."""
    n = len(batch.pairs)
    sums = [dict[Site, Tensor]() for _ in batch.asked]
    points = path.points()
    size = max(1, batch.rows // n)
    for start in range(0, len(points), size):
        part = points[start : start + size]
        rows = list(range(n)) * len(part)
        value = torch.cat([at + share * (to - at) for share in part]).detach().requires_grad_()
        plan = Plan((Edit(moved, Set(value)),))
        run = traced(batch.model, pick_rows(batch.base, rows), read, plan)
        for total, question in zip(sums, batch.asked, strict=True):
            for site, slope in run.slopes(question.of(run.logits, rows).sum(), read).items():
                slope = slope.float().unflatten(0, (len(part), n)).sum(0) / path.steps
                total[site] = total[site] + slope if site in total else slope
    return sums


def _totals(
    batch: Batch,
    where: Sequence[Place],
    steps: Mapping[Site, Tensor],
    slopes: Mapping[Site, Tensor],
) -> np.ndarray:
    return summed(lambda p: steps[p.site] * slopes[p.site].float(), where, batch.pairs)


def _everything(product: Tensor) -> np.ndarray:
    return product.double().flatten(1).sum(1).cpu().numpy()


def _rise(batch: Batch, site: Site, to: Tensor) -> np.ndarray:
    ends = [
        batch.model.run(batch.base, plan, logits="last").logits
        for plan in (Plan(), Plan((Edit(site, Set(to)),)))
    ]
    before, after = (batch.asked[0].of(x[:, -1]).double() for x in ends if x is not None)
    return (after - before).detach().cpu().numpy()
