"""Run circuits of latents and errors: the model with every other node at its base.

Site by site in the order of the pass: a node of the circuit keeps what it is in this very run, any
other latent or error (those that are not listed too) is set to zero or to its state in the
corrupted run. No node: every dictionary's site is at its base. Source: Marks et al. 2024,
arXiv:2403.19647, who set other nodes to their means.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.attribution.asked import known_metric
from lensbench.interventions.attribution.curve import (
    CircuitCurve,
    Mask,
    alike,
    sizes_up_to,
    with_band,
)
from lensbench.interventions.attribution.edge_result import EdgeResult
from lensbench.interventions.attribution.faithful import faithfulness
from lensbench.interventions.attribution.gradients import Question
from lensbench.interventions.graphs.effects import (
    ERROR,
    State,
    part_of,
    sites_of,
    spliced,
    states,
)
from lensbench.interventions.graphs.effects_result import LatentEffects, sources
from lensbench.interventions.metrics import Metric, MetricLike, as_metric
from lensbench.interventions.values import groups, run_of
from lensbench.models.base import Model
from lensbench.models.spliced import SplicedModel
from lensbench.ops import Call
from lensbench.plan import Edit, Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.sites import Site


def circuit_curve(
    model: Model, pairs: PromptPairs, found: LatentEffects | EdgeResult, saes: Any = None,
    sizes: Sequence[int] | None = None, *, metric: MetricLike | None = None, random: int = 20,
    batch_size: int = 16, seed: int = 0,
) -> CircuitCurve:  # fmt: skip
    """Faithfulness and completeness of circuits of latents (or edges) against their size.

    ``faithfulness(C) = (m(C) - m(none)) / (m(clean) - m(none))``, means over prompts;
    ``completeness(C) = 1 - faithfulness(all but C)``. Source: Marks et al. 2024, arXiv:2403.19647.

    Args:
        model: the one the effects are of.
        pairs: prompts; others than the effects were found on say more.
        found: from :func:`latent_effects`, or from :func:`attribute_edges`, whose edges are run as
            by :func:`lensbench.interventions.faithfulness`.
        saes: the same dictionaries; left out, those spliced in already. Not for edges.
        sizes: numbers of nodes; left out, about ten up to all, evenly on a log scale.
        metric: left out, the one of the effects.
        random: random circuits of each size, of each site (and kind: an error is drawn for an
            error) as many nodes as the circuit has.
        batch_size: prompts in one pass.
        seed: of the random circuits.

    Raises:
        ConfigError: more nodes than there are; a metric of your own that is not given again.
        MismatchError: effects of another model or of other dictionaries.

    Example:
        >>> codecs = {"blocks.3.resid_post": run}
        >>> found = interventions.latent_effects(model, pairs, codecs, steps=2)
        >>> curve = interventions.circuit_curve(model, pairs, found, codecs, [2, 8], random=2)
    """
    if isinstance(found, EdgeResult):
        return faithfulness(model, pairs, found, sizes, metric=metric, random=random,
                            batch_size=batch_size, seed=seed)  # fmt: skip
    began = time.monotonic()
    if not isinstance(found, LatentEffects):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"a curve is of LatentEffects or EdgeResult, got {type(found).__name__}")
    chosen = sizes_up_to(sizes, len(found.latent), "nodes")
    asked = as_metric(known_metric(found.metric, metric))
    runs = LatentRuns(model, pairs, found, saes, asked, batch_size)
    rng = np.random.default_rng(whole_number("seed", seed, least=0))
    draws = whole_number("random", random, least=0)
    kinds = 2 * found.site + (found.latent == ERROR)
    circuits = [found.circuit(n) for n in chosen]
    band = [[runs.measure(alike(c, kinds, rng)) for _ in range(draws)] for c in circuits]
    nothing = np.zeros(len(found.latent), dtype=bool)
    return with_band(CircuitCurve(
        task=pairs.task, metric=asked.name, unit=asked.unit, parts="nodes",
        sizes=np.array(chosen), values=np.array([runs.measure(c) for c in circuits]),
        rest=np.array([runs.measure(c, rest=True) for c in circuits]),
        random=np.array(band, dtype=float).reshape(len(chosen), draws, len(pairs)),
        clean=runs.clean, corrupted=runs.measure(nothing), of=len(found.latent),
        config={"pairs": pairs.fingerprint(), "effects": found.config, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    ))  # fmt: skip


class LatentRuns:
    """All groups of prompts, ready to be run under circuits of nodes."""

    def __init__(
        self, model: Model, pairs: PromptPairs, found: LatentEffects, saes: Any, metric: Metric,
        batch_size: int,
    ) -> None:  # fmt: skip
        known = found.provenance.model.get("fingerprint")
        if known != model.card.fingerprint:
            raise MismatchError(f"the effects are of a model with fingerprint {known}, this one "
                                f"has {model.card.fingerprint}; find them again")  # fmt: skip
        check_pairs(model, pairs)
        self.model, self.found = spliced(model, saes), found
        if sources(self.model) != found.config["dictionaries"]:
            raise MismatchError("the effects are of other dictionaries; give the same ones")
        size = whole_number("batch_size", batch_size, least=1)
        self.parts: list[tuple[PromptPairs, Question, dict[Site, State]]] = []
        ends: list[Tensor] = []
        for rows in groups(len(pairs), size):
            part = pairs.select(rows)
            question = Question(metric, part, run_of(self.model, part.clean, part, [])[1])
            ends.append(question.of(question.clean))
            self.parts.append((part, question, self._base(part)))
        self.clean = torch.cat(ends).double().cpu().numpy()

    def _base(self, pairs: PromptPairs) -> dict[Site, State]:
        at = states(self.model, pairs.corrupted, sites_of(self.model))
        if self.found.base == "corrupted":
            return at
        return {s: (torch.zeros_like(a), torch.zeros_like(e)) for s, (a, e) in at.items()}

    def measure(self, kept: Mask, *, rest: bool = False) -> Float[np.ndarray, " pairs"]:
        """The metric of every prompt under a circuit, or with ``rest`` under all but it."""
        keep = kept_by_site(self.model, self.found, kept, rest=rest)
        values: list[Tensor] = []
        for part, question, base in self.parts:
            plan = circuit_plan(keep, base)
            logits = self.model.run(part.clean, plan, logits="last").logits
            assert logits is not None
            values.append(question.of(logits[:, -1]).detach())
        return torch.cat(values).double().cpu().numpy()


def kept_by_site(
    model: SplicedModel, found: LatentEffects, kept: Mask, *, rest: bool = False
) -> dict[Site, tuple[Tensor, bool]]:
    """By site which latents keep what they are, ``[d_sae]``, and whether the error does."""
    keep: dict[Site, tuple[Tensor, bool]] = {}
    for number, name in enumerate(found.sites):
        site, mine = Site.parse(name), kept & (found.site == number)
        latents = torch.zeros(model.width(part_of(site, "acts")), dtype=torch.bool)
        latents[torch.as_tensor(found.latent[mine & (found.latent != ERROR)])] = True
        error = bool((mine & (found.latent == ERROR)).any())
        keep[site] = (~latents, not error) if rest else (latents, error)
    return keep


def circuit_plan(keep: dict[Site, tuple[Tensor, bool]], base: dict[Site, State]) -> Plan:
    """Everything but the kept nodes at its base."""
    edits: list[Edit] = []
    for site, (latents, error) in keep.items():
        edits.append(Edit(part_of(site, "acts"), Call(_kept(latents, base[site][0]), "circuit")))
        if not error:
            edits.append(Edit(part_of(site, "error"), Call(_kept(None, base[site][1]), "circuit")))
    return Plan(tuple(edits))


def _kept(which: Tensor | None, base: Tensor) -> Callable[[Tensor], Tensor]:
    def keep(x: Tensor) -> Tensor:
        return base.to(x) if which is None else torch.where(which.to(x.device), x, base.to(x))

    return keep
