"""What each latent and each error does to a metric: integrated gradients of spliced dictionaries.

1. At one site at a time all latents and the error go together from their own state to a base: zero,
   or the state of the corrupted run. Everything above follows.
2. ``effect = sum over tokens of (a - a_base) . (mean slope along the path)``: what the metric owes
   to the node. Over the nodes of a site they add up to ``m - m(site at its base)``, but for a gap.
3. Nodes that differ from their base at some token of some prompt are listed.
Source: Marks et al. 2024, arXiv:2403.19647; the integral as in Hanna & Mueller 2024,
arXiv:2412.05353.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError
from lensbench.interventions.attribution.gradients import traced
from lensbench.interventions.attribution.methods import Path
from lensbench.interventions.patching.engine import pick_rows
from lensbench.models.base import Model
from lensbench.models.spliced import SplicedModel
from lensbench.ops import Set
from lensbench.plan import Edit, Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

Base = Literal["corrupted", "zero"]
BASES: tuple[Base, ...] = ("corrupted", "zero")
ERROR = -1
"""Number of the error among the latents of a site."""
State = tuple[Float[Tensor, "batch pos d_sae"], Float[Tensor, "batch pos d_in"]]
"""Latents and error of a site."""


@runtime_checkable
class Asked(Protocol):
    """A metric of the last logits of some prompts."""

    def of(self, logits: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """One number per row of logits, which are of these prompts (all of them by default)."""
        ...


@dataclass(frozen=True, eq=False)
class Part:
    """Some prompts, what is asked of them, and the prompts whose states are the base."""

    tokens: Tokens
    asked: Sequence[Asked]
    corrupted: Tokens | None = None
    """Left out, the base is zero."""


@dataclass(frozen=True, eq=False)
class Found:
    """Effects at every site of some prompts."""

    values: dict[Site, list[Float[Tensor, "batch nodes"]]]
    """By site and question; the last node is the error."""
    rise: dict[Site, Float[Tensor, " batch"]]
    """``m - m(all of the site at its base)`` of the first question."""
    moved: dict[Site, Bool[Tensor, " nodes"]]
    """Whether a node differs from its base at some token."""
    clean: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Nodes:
    """Latents and errors that differ from their base somewhere, by site and number."""

    sites: tuple[str, ...]
    site: Int[np.ndarray, " nodes"]
    latent: Int[np.ndarray, " nodes"]
    """:data:`ERROR` for an error."""
    values: list[Float[np.ndarray, "nodes prompts"]]
    """By question."""


def spliced(model: Model, saes: Any) -> SplicedModel:
    """The model with these dictionaries; left out, with those that are spliced in already.

    Raises:
        ConfigError: no dictionary, or one whose error is dropped.
        MismatchError: one of another model, site or width.
    """
    if saes is not None:
        model = model.with_saes(saes)
    if not isinstance(model, SplicedModel):
        raise ConfigError("circuits of latents need dictionaries; pass saes, or model.with_saes()")
    if any(s.error == "drop" for s in model.splices):
        raise ConfigError("errors are nodes of a circuit; splice with error='keep'")
    return model


def sites_of(model: SplicedModel) -> tuple[Site, ...]:
    """Where the dictionaries stand, in execution order."""
    return tuple(sorted(s.site for s in model.splices))


def part_of(site: Site, part: str) -> Site:
    """A site of a dictionary: ``acts`` or ``error``."""
    return Site(f"{site.name}.sae.{part}", site.layer, site.stack)


def states(model: Model, tokens: Tokens, sites: Sequence[Site]) -> dict[Site, State]:
    """Latents and errors of a run.

    Raises:
        NonFiniteError: NaN in one.
    """
    wanted = [part_of(s, p) for s in sites for p in ("acts", "error")]
    acts = model.run(tokens, capture=wanted, logits="none").acts
    found = {s: (acts[part_of(s, "acts")], acts[part_of(s, "error")]) for s in sites}
    for site, pair in found.items():
        if any(bool(x.isnan().any()) for x in pair):
            raise NonFiniteError(f"a latent or the error at {site} is NaN; run in float32")
    return found


def effects(model: SplicedModel, part: Part, path: Path, rows: int) -> Found:
    """Effects of every node on every question; at most ``rows`` rows in a pass."""
    sites = sites_of(model)
    own = states(model, part.tokens, sites)
    base = {s: (torch.zeros_like(a), torch.zeros_like(e)) for s, (a, e) in own.items()}
    if part.corrupted is not None:
        base = states(model, part.corrupted, sites)
    clean = _measured(model, part, Plan())
    values: dict[Site, list[Tensor]] = {}
    rise: dict[Site, Tensor] = {}
    moved: dict[Site, Tensor] = {}
    real = part.tokens.real.to(clean.device)
    for site in sites:
        moved[site] = _moved(own[site], base[site], real)
        values[site] = list(_along(model, part, site, own[site], base[site], path, rows))
        rise[site] = clean - _measured(model, part, Plan(_set(site, base[site])))
    return Found(values, rise, moved, clean)


def _along(
    model: Model, part: Part, site: Site, own: State, base: State, path: Path, rows: int
) -> Iterator[Tensor]:
    """By question ``[batch, d_sae + 1]``: step times mean slope, summed over real tokens."""
    n, real = part.tokens.n_rows, part.tokens.real.to(own[0].device)[..., None]
    slopes: list[list[Tensor]] = [[torch.zeros_like(x) for x in own] for _ in part.asked]
    points, size = path.points(), max(1, rows // n)
    ends = [part_of(site, p) for p in ("acts", "error")]
    for start in range(0, len(points), size):
        several = points[start : start + size]
        many = list(range(n)) * len(several)
        at = [torch.cat([x + share * (b - x) for share in several]).detach().requires_grad_()
              for x, b in zip(own, base, strict=True)]  # fmt: skip
        plan = Plan(_set(site, (at[0], at[1])))
        run = traced(model, pick_rows(part.tokens, many), ends, plan)
        for total, asked in zip(slopes, part.asked, strict=True):
            found = run.slopes(asked.of(run.logits, many).sum(), ends)
            for i, end in enumerate(ends):
                total[i] += found[end].unflatten(0, (len(several), n)).sum(0) / path.steps
    for total in slopes:
        acts, error = ((x - b) * slope * real
                       for x, b, slope in zip(own, base, total, strict=True))  # fmt: skip
        yield torch.cat([acts.sum(1), error.sum((1, 2))[:, None]], 1)


def _moved(own: State, base: State, real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, " nodes"]:
    """Which nodes differ from their base at a real token; the error is the last."""
    acts, error = (((x - b)[real] != 0).any(0) for x, b in zip(own, base, strict=True))
    return torch.cat([acts, error.any()[None]])


def _set(site: Site, state: State) -> tuple[Edit, ...]:
    ends = [part_of(site, p) for p in ("acts", "error")]
    return tuple(Edit(end, Set(x)) for end, x in zip(ends, state, strict=True))


def _measured(model: Model, part: Part, plan: Plan) -> Tensor:
    logits = model.run(part.tokens, plan, logits="last").logits
    assert logits is not None
    return part.asked[0].of(logits[:, -1]).detach().double()


def listed(several: Sequence[Found]) -> Nodes:
    """Nodes that moved in some prompt, site by site; errors last of each."""
    sites = tuple(several[0].values)
    where: list[np.ndarray] = []
    latent: list[np.ndarray] = []
    n_questions = len(several[0].values[sites[0]])
    values: list[list[np.ndarray]] = [[] for _ in range(n_questions)]
    for i, site in enumerate(sites):
        tables = [torch.cat([f.values[site][q] for f in several]).cpu().numpy().T
                  for q in range(n_questions)]  # fmt: skip
        there = torch.stack([f.moved[site] for f in several]).any(0).cpu().numpy()
        there[-1] = True
        numbers = np.flatnonzero(there)
        latent.append(np.where(numbers == len(there) - 1, ERROR, numbers))
        where.append(np.full(len(numbers), i))
        for found, table in zip(values, tables, strict=True):
            found.append(table[there])
    return Nodes(tuple(map(str, sites)), np.concatenate(where), np.concatenate(latent),
                 [np.concatenate(v) for v in values])  # fmt: skip
