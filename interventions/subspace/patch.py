"""Patch a subspace, its read part, its ignored part, and the whole state beside it.

1. Both runs are captured at the place.
2. The subspace's basis is split by the next map into what it reads and what it ignores; each part
   is made orthonormal again.
3. Each arm exchanges its span between the runs; everything else stays the base run's.

A line that mixes a direction that varies but is not read with one that is read but does not vary
moves the output although the model never uses it (Makelov, Lange & Nanda 2023, arXiv:2311.17030):
neither part works alone, and the whole state does nothing.
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.patching.engine import Engine, Group
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.places import Place, places
from lensbench.interventions.subspace.next_map import WRITES, next_map
from lensbench.interventions.subspace.result import ARMS, SubspaceResult
from lensbench.interventions.subspace.spans import basis_of, orthonormal, split
from lensbench.interventions.subspace.values import InSpan, steps
from lensbench.interventions.values import run_of
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.results import Controls
from lensbench.sites import Site


def subspace_patch(
    model: Model,
    pairs: PromptPairs,
    site: str | Site,
    directions: Any,
    *,
    position: int | str = "end",
    head: int | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    metric: MetricLike = "logit_diff",
    reads: Tensor | np.ndarray | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> SubspaceResult:
    """Exchange a subspace of a place between two runs, and test whether the model uses it.

    ``h + (h' - h) B B^T``, B an orthonormal basis of the directions.

    Args:
        model: any back end.
        pairs: aligned prompt pairs.
        site: one site with its layer.
        directions: ``[k, d]`` or one vector, in the units of the site (of one head: of its z).
        position: a role or a number.
        head: of sites with heads.
        direction: ``denoise`` or ``noise``, as in ``patch_sweep``.
        metric: as in ``patch_sweep``.
        reads: ``[d, m]``: the map behind the site; left out, read off the model for ``mlp.post``
            and ``attn.z`` and else all of the space, so that only the whole state is compared.
        batch_size: most rows in one forward pass.
        seed: of the random subspace.

    Raises:
        ConfigError: several places, directions of another width.
    """
    began = time.monotonic()
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", str(direction), known=DIRECTIONS)
    place = one_place(model, pairs, site, position, head)
    width = model.width(place.site)
    basis = basis_of(directions, width)
    read = map_behind(model, place, reads, width)
    row, null = split(basis, read)
    *_, step = both_runs(model, pairs, place, direction)
    rng = torch.Generator().manual_seed(seed)
    random = orthonormal(torch.randn(width, basis.shape[1], generator=rng, dtype=torch.float64))
    main = torch.linalg.svd(step, full_matrices=False).Vh[: basis.shape[1]].T
    spans = {
        "full": torch.eye(width, dtype=torch.float64),
        "subspace": basis,
        "row": orthonormal(row),
        "null": orthonormal(null),
        "main_step": main,
        "random": random,
    }
    found = [
        _patched(model, pairs, place, direction, metric, spans[arm], batch_size, seed)
        for arm in ARMS
    ]
    ends = found[0]
    clean, corrupted = ends.clean, ends.corrupted
    start, to = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    unit = float(step.square().sum(1).mean().sqrt()) / width**0.5
    result = SubspaceResult(
        task=pairs.task, site=str(place.site), position=str(place.position),
        head=-1 if head is None else head, k=basis.shape[1],
        values=np.stack([f.values[0] for f in found]), source=to, base=start,
        moves=np.array([_moves(step, spans[arm], unit) for arm in ARMS]),
        null_share=float(null.square().sum() / basis.shape[1]),
        readable=bool(torch.linalg.matrix_rank(read.double()) < width),
        config={"pairs": pairs.fingerprint(), "direction": direction, "metric": ends.metric},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    return _controlled(result)


def one_place(
    model: Model, pairs: PromptPairs, site: str | Site, position: int | str, head: int | None
) -> Place:
    """The one place meant.

    Raises:
        ConfigError: a site name without its layer, or heads without saying which.
    """
    heads: Sequence[int] | Literal["each"] = "each" if head is None else [head]
    found = places(model, pairs, str(site), positions=[position], heads=heads)
    if len(found) != 1:
        raise ConfigError(
            f"{site} at {position!r} is {len(found)} places; name a layer (blocks.3.{site}) and, "
            "at sites with heads, a head"
        )
    return found[0]


def map_behind(model: Model, place: Place, reads: Tensor | np.ndarray | None, width: int) -> Tensor:
    """What reads the place: given, read off the model, or everything."""
    if reads is not None:
        given = torch.as_tensor(np.asarray(reads)).double()
        if given.ndim != 2 or given.shape[0] != width:
            raise ConfigError(
                f"reads must be [{width}, m] at {place.site}, got {list(given.shape)}"
            )
        return given
    if place.site.name in WRITES:
        return next_map(model, place.site, head=place.head).double()
    return torch.eye(width, dtype=torch.float64)


def both_runs(
    model: Model, pairs: PromptPairs, place: Place, direction: str
) -> tuple[Any, Any, Tensor]:
    """States of the base run and the source run at a place, and their difference."""
    clean, _ = run_of(model, pairs.clean, pairs, [place.site])
    corrupted, _ = run_of(model, pairs.corrupted, pairs, [place.site])
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    return base, source, steps(source, base, place)


def _patched(
    model: Model, pairs: PromptPairs, place: Place, direction: str, metric: MetricLike,
    basis: Tensor, batch_size: int, seed: int,
) -> Any:  # fmt: skip
    def values(group: Group) -> tuple[InSpan, None]:
        base, source, _ = both_runs(model, group.pairs, place, direction)
        return InSpan(source, base, basis), None

    engine = Engine(model, pairs, [place], direction, as_metric(metric), batch_size, seed)
    return engine.run(values, [])


def _moves(step: Tensor, basis: Tensor, unit: float) -> float:
    if not basis.shape[1] or not unit:
        return float("nan")
    return float((step @ basis).square().mean().sqrt()) / unit


def _controlled(result: SubspaceResult) -> SubspaceResult:
    from dataclasses import replace

    effect = dict(zip(ARMS, result.effect, strict=True))
    note = "a random subspace of the same size; the part that the next map ignores"
    values = {"random_subspace": float(effect["random"]), "null_part": float(effect["null"])}
    return replace(result, controls=Controls(values, note))
