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
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.metrics import Metric, MetricLike, as_metric, ends_of
from lensbench.interventions.patching.engine import pick_rows
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.places import Place, places
from lensbench.interventions.subspace.next_map import WRITES, next_map
from lensbench.interventions.subspace.result import ARMS, SubspaceResult
from lensbench.interventions.subspace.spans import basis_of, matrix_of, orthonormal, split
from lensbench.interventions.subspace.values import InSpan, steps
from lensbench.interventions.values import FromRun, groups, run_of
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
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
        NotEnoughDataError: no pair has the token.

    Example:
        >>> directions = torch.randn(1, 128)
        >>> found = interventions.subspace_patch(model, pairs, "blocks.3.resid_post", directions)
        >>> found.verdict
    """
    began = time.monotonic()
    if direction not in DIRECTIONS:
        raise UnknownNameError("direction", str(direction), known=DIRECTIONS)
    whole_number("batch_size", batch_size, least=1)
    place = one_place(model, pairs, site, position, head)
    width = model.width(place.site)
    basis = basis_of(directions, width)
    read = map_behind(model, place, reads, width)
    row, null = split(basis, read)
    step = all_steps(model, pairs, place, direction, batch_size)
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
    asked = as_metric(metric)
    values, start, to = _patched(model, pairs, place, direction, asked, spans, batch_size)
    unit = float(step.square().sum(1).mean().sqrt()) / width**0.5
    result = SubspaceResult(
        task=pairs.task, site=str(place.site), position=str(place.position),
        head=-1 if head is None else head, k=basis.shape[1],
        values=values, source=to, base=start,
        moves=np.array([_moves(step, spans[arm], unit) for arm in ARMS]),
        null_share=float(null.square().sum() / basis.shape[1]),
        readable=bool(torch.linalg.matrix_rank(read.double()) < width),
        config={"pairs": pairs.fingerprint(), "direction": direction, "metric": asked.name},
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
        ConfigError: a site name without its layer, heads without saying which, or a head of a site
            that has none.
    """
    heads: Sequence[int] | Literal["each"] = "each" if head is None else [head]
    found = places(model, pairs, str(site), positions=[position], heads=heads)
    if len(found) != 1:
        raise ConfigError(
            f"{site} at {position!r} is {len(found)} places; name a layer, such as "
            f"blocks.3.{found[0].site.name}, and, at sites with heads, a head"
        )
    if head is not None and found[0].head is None:
        raise ConfigError(f"{found[0].site} has no heads, got head={head!r}")
    return found[0]


def map_behind(model: Model, place: Place, reads: Tensor | np.ndarray | None, width: int) -> Tensor:
    """What reads the place: given, read off the model, or everything."""
    if reads is not None:
        given = matrix_of("reads", reads)
        if given.ndim != 2 or given.shape[0] != width or not given.shape[1]:
            raise ConfigError(
                f"reads must be [{width}, m] at {place.site}, got {list(given.shape)}"
            )
        return given
    if place.site.name in WRITES:
        return next_map(model, place.site, head=place.head).double()
    return torch.eye(width, dtype=torch.float64)


def both_runs(
    model: Model, pairs: PromptPairs, place: Place, direction: str
) -> tuple[FromRun, FromRun, dict[str, Tensor]]:
    """States of the base run and the source run at a place, and both runs' last logits."""
    clean, good = run_of(model, pairs.clean, pairs, [place.site])
    corrupted, bad = run_of(model, pairs.corrupted, pairs, [place.site])
    logits = {"clean": good, "corrupted": bad}
    return (corrupted, clean, logits) if direction == "denoise" else (clean, corrupted, logits)


def all_steps(
    model: Model, pairs: PromptPairs, place: Place, direction: str, batch_size: int
) -> Tensor:
    """``source - base`` at a place, ``[prompts, d]``, of all pairs that have it.

    Raises:
        NotEnoughDataError: none has.
    """
    found: list[Tensor] = []
    for rows in groups(len(pairs), batch_size):
        base, source, _ = both_runs(model, pairs.select(rows), place, direction)
        found += steps(source, base, place)
    if not found:
        raise NotEnoughDataError(f"none of the {len(pairs)} pairs has a token at {place}")
    return torch.stack(found)


def _patched(
    model: Model, pairs: PromptPairs, place: Place, direction: str, metric: Metric,
    spans: Mapping[str, Tensor], batch_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The metric ``[arms, pairs]`` under every exchange, and on the base and the source run."""
    check_pairs(model, pairs)
    model.require_next_token("subspace patching")
    found = np.full((len(ARMS), len(pairs)), np.nan)
    ends = {name: np.empty(len(pairs)) for name in ("clean", "corrupted")}
    for rows in groups(len(pairs), batch_size):
        part = pairs.select(rows)
        base, source, logits = both_runs(model, part, place, direction)
        good = logits["clean"]
        for name, given in logits.items():
            ends[name][rows] = metric(ends_of(part, given[:, None], good)).double().cpu().numpy()
        tokens = part.corrupted if direction == "denoise" else part.clean
        todo = [
            (arm, row, Plan((place.edit(op, place.at(part, row)),)))
            for arm, name in enumerate(ARMS)
            for row in range(len(part))
            if (op := InSpan(source, base, spans[name]).op(place, row)) is not None
        ]
        if not todo:
            continue  # no prompt of this group has the token
        chosen = [row for _, row, _ in todo]
        plans = [plan for *_, plan in todo]
        out = model.run_many(
            pick_rows(tokens, chosen), plans, logits="last", batch_size=batch_size
        ).logits
        assert out is not None
        measured = metric(ends_of(part.select(chosen), out, good[chosen])).double().cpu().numpy()
        found[[arm for arm, *_ in todo], rows[chosen]] = measured
    there = np.isfinite(found).all(0)
    start, to = ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
    return found[:, there], ends[start][there], ends[to][there]


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
