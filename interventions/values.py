"""What a place is set to: the state of another run, its mean, that of another prompt, or nothing.

Each kind of value is a class with one method, :meth:`Values.op`: the operation for a place of one
prompt. Values of a group of prompts are captured together, so that a sweep holds no more of them
than its batch budget allows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError
from lensbench.interventions.places import Place
from lensbench.models.base import Acts, Model
from lensbench.ops import Op, Set, Zero
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site
from lensbench.tokens import Tokens

Ablation = Literal["zero", "mean", "resample", "solo"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "resample", "solo")
BY_QUERY = "batch head query key"
"""Axes of attention scores and patterns."""


@runtime_checkable
class Values(Protocol):
    """Gives the operation of every place of every prompt of a group."""

    def op(self, place: Place, row: int) -> Op | None:
        """What to do at ``place`` of prompt ``row`` of the group; None where there is no token."""
        ...


@dataclass(frozen=True)
class Planned:
    """Whole plans for places of prompts, where one operation is not enough (path patching)."""

    plans: Mapping[tuple[Place, int], Plan]

    def plan(self, place: Place, row: int) -> Plan | None:
        """What to do for ``place`` of prompt ``row``; None where there is no token."""
        return self.plans.get((place, row))


@dataclass(frozen=True)
class FromRun:
    """The activations of another run of prompts that are as long, token by token."""

    acts: Acts
    pairs: PromptPairs

    def at(self, place: Place, row: int) -> Tensor | None:
        """The numbers at ``place`` in that run."""
        position = place.at(self.pairs, row)
        return None if position == -1 and isinstance(place.position, str) else self._cut(place, row)

    def _cut(self, place: Place, row: int) -> Tensor:
        x = self.acts[place.site][row]
        by_query = place.site.spec.axes == BY_QUERY
        position = place.at(self.pairs, row)
        if position is not None:
            width, length = x.shape[1 if by_query else 0], len(self.pairs.clean_ids[row])
            column = width - length + position if position >= 0 else width + position
            x = x[:, column : column + 1] if by_query else x[column : column + 1]
        if place.head is not None:
            x = x[place.head : place.head + 1] if by_query else x[:, place.head : place.head + 1]
        return x if place.dim is None else x[..., place.dim : place.dim + 1]

    def op(self, place: Place, row: int) -> Op | None:
        """Set the place to its state in that run."""
        found = self.at(place, row)
        if found is None:
            return None
        one_token = place.position is not None and place.site.spec.axes != BY_QUERY
        return Set(found[0] if one_token else found)


@dataclass(frozen=True)
class Zeros:
    """Nothing: zero ablation."""

    pairs: PromptPairs

    def op(self, place: Place, row: int) -> Op | None:
        """Zero, where the prompt has such a token."""
        role = isinstance(place.position, str)
        return None if role and place.at(self.pairs, row) == -1 else Zero()


@dataclass(frozen=True)
class Means:
    """The mean state of a place over prompts: mean ablation."""

    means: dict[Place, Tensor]
    pairs: PromptPairs

    def op(self, place: Place, row: int) -> Op | None:
        """Set the place to its mean."""
        role = isinstance(place.position, str)
        return None if role and place.at(self.pairs, row) == -1 else Set(self.means[place])


@dataclass(frozen=True)
class RandomSteps:
    """A control: the base state plus a random step as long as the one a patch makes.

    ``base + |part of (source - base)| * u`` with ``u`` uniform on the unit sphere of the place's
    last axis. Where a patch changes part of a vector (a dimension, a subspace), the step is as long
    as its own there, and goes anywhere in the vector: a random direction of a random subspace of
    as many dimensions.
    """

    source: FromRun
    base: FromRun
    rng: torch.Generator

    def op(self, place: Place, row: int) -> Op | None:
        """Set all of the place to a state as far from its own as the patch's."""
        to, at = (run.at(place.whole, row) for run in (self.source, self.base))
        if to is None or at is None:
            return None
        step = torch.randn(to.shape, generator=self.rng).to(to)
        step = step / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return Set(at + step * _patched_part(place, to - at).norm(dim=-1, keepdim=True))

    def plan(self, place: Place, row: int) -> Plan | None:
        """The step, which is not kept to the part of the vector that the place names."""
        op = self.op(place, row)
        return None if op is None else Plan((place.whole.edit(op, place.at(self.base.pairs, row)),))


def _patched_part(place: Place, step: Tensor) -> Tensor:
    """What of a whole vector's step a patch of the place makes."""
    if place.subspace is not None:
        return place.subspace.part(step)
    return step if place.dim is None else step[..., place.dim : place.dim + 1]


def run_of(
    model: Model, tokens: Tokens, pairs: PromptPairs, sites: Sequence[Site]
) -> tuple[FromRun, Tensor]:
    """One pass over a group of prompts: states at ``sites``, and the last logits.

    Raises:
        NonFiniteError: NaN in what would be patched in.
    """
    out = model.run(tokens, capture=list(dict.fromkeys(sites)), logits="last")
    assert out.logits is not None
    for name, x in out.acts.items():
        if x.is_floating_point() and bool(x.isnan().any()):
            raise NonFiniteError(
                f"{int(x.isnan().sum())} of {x.numel()} numbers at {name} are NaN: nothing was "
                "patched. Run the model in float32, or look at these prompts alone"
            )
    return FromRun(out.acts, pairs), out.logits[:, -1]


def groups(n: int, size: int) -> Iterator[np.ndarray]:
    """Numbers of prompts, ``size`` at a time."""
    for first in range(0, n, size):
        yield np.arange(first, min(n, first + size))


def means_of(
    model: Model, pairs: PromptPairs, places: Sequence[Place], batch_size: int
) -> dict[Place, Tensor]:
    """Mean state of every place over the clean prompts (and over tokens where all are meant).

    Raises:
        NotEnoughDataError: one prompt, whose mean would be its own state.
    """
    if len(pairs) < 2:
        raise NotEnoughDataError("mean ablation needs at least two prompts, got one")
    sums: dict[Place, Tensor] = {}
    counts: dict[Place, int] = dict.fromkeys(places, 0)
    for rows in groups(len(pairs), batch_size):
        part = pairs.select(rows)
        run, _ = run_of(model, part.clean, part, [p.site for p in places])
        for place in places:
            for row in range(len(part)):
                found = run.at(place, row)
                if found is None:
                    continue
                if place.position is None:
                    found = _real(found, place, len(part.clean_ids[row]))
                n = found.shape[_axis(place)]
                total = found.double().sum(_axis(place), keepdim=True)
                sums[place] = sums[place] + total if place in sums else total
                counts[place] += n
    return {place: (total / counts[place]).float() for place, total in sums.items()}


def _axis(place: Place) -> int:
    return 1 if place.site.spec.axes == BY_QUERY else 0


def _real(x: Tensor, place: Place, length: int) -> Tensor:
    """Without the padding, which stands on the left."""
    axis = _axis(place)
    return x.narrow(axis, x.shape[axis] - length, length)


def others(n: int, seed: int) -> np.ndarray:
    """For each prompt another one, at random; a single cycle, so that none is given itself.

    Raises:
        NotEnoughDataError: one prompt.
    """
    if n < 2:
        raise NotEnoughDataError("resample ablation needs at least two prompts, got one")
    order = np.random.default_rng(seed).permutation(n)
    found = np.empty_like(order)
    found[order] = np.roll(order, 1)
    return found


def solo_tokens(pairs: PromptPairs, bos_id: int | None) -> list[tuple[int, ...]]:
    """Every token of the clean prompts by itself, behind BOS where the prompts begin with it."""
    ids = sorted({t for row in pairs.clean_ids for t in row})
    return [(t,) if bos_id is None or t == bos_id else (bos_id, t) for t in ids]


@dataclass(frozen=True)
class Solo:
    """The state of each token processed without its context: solo ablation."""

    states: dict[Site, dict[int, Tensor]]
    """By site and token id, without the position axis."""
    pairs: PromptPairs

    def op(self, place: Place, row: int) -> Op | None:
        """Set every token that is meant to the state it has alone."""
        ids, position = self.pairs.clean_ids[row], place.at(self.pairs, row)
        if position == -1 and isinstance(place.position, str):
            return None
        chosen = ids if position is None else (ids[position],)
        states = self.states[place.site]
        x = torch.stack([states[t] for t in chosen])
        if position is None:  # the padding's states do not matter
            pad = self.pairs.clean.n_pos - len(ids)
            x = torch.cat([x[:1].expand(pad, *x.shape[1:]), x]) if pad else x
        x = x if place.head is None else x[:, place.head : place.head + 1]
        return Set(x if place.dim is None else x[..., place.dim : place.dim + 1])


def solo_of(
    model: Model, pairs: PromptPairs, places: Sequence[Place], batch_size: int
) -> dict[Site, dict[int, Tensor]]:
    """States of every token alone, at every site of the sweep.

    Raises:
        ConfigError: a site of attention patterns, which compare tokens.
    """
    sites = list(dict.fromkeys(p.site for p in places))
    if mixed := [s for s in sites if s.spec.axes == BY_QUERY]:
        raise ConfigError(f"{mixed[0]} compares tokens: a token alone has no such state")
    first = {row[0] for row in pairs.clean_ids}
    bos = getattr(model.tokenizer, "bos_token_id", None)
    alone = solo_tokens(pairs, bos if first == {bos} else None)
    found: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}
    for length in (1, 2):
        rows = [row for row in alone if len(row) == length]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            acts = model.run(torch.tensor(part), capture=sites, logits="none").acts
            for site in sites:
                found[site] |= {row[-1]: x[-1] for row, x in zip(part, acts[site], strict=True)}
    return found
