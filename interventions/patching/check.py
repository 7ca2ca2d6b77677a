"""A place of a sweep on pairs that the sweep has not seen, ranked among its controls.

A place that is picked because its effect is the largest of many has been looked at twice: only
other pairs tell.

1. Pairs whose clean prompt the sweep has seen are left out.
2. The place is patched (or taken out) on the rest, in the same way, by the same metric.
3. Controls there: random steps as long as the patch's at the place itself (of patches), and other
   places of the same site, drawn at random from the sweep's.
4. Its rank among them is a p; see :mod:`lensbench.standing`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.interventions.metrics import METRICS, MetricLike, as_metric
from lensbench.interventions.patching.ablation import ablations
from lensbench.interventions.patching.engine import Engine, Group, mark_of
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.sweep import DIRECTIONS, takes_steps
from lensbench.interventions.patching.whole import run_sweep
from lensbench.interventions.places import Place
from lensbench.interventions.values import RandomSteps, Values, run_of
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.results import Result
from lensbench.sites import Site
from lensbench.standing import Standing, standing

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

STEPS_NAMED, OTHERS_NAMED = "random steps of the same length", "other places drawn at random"


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaceCheck(Result):
    """A place and other places of its site on new pairs; effects as in :class:`PatchingResult`.

    Example:
        >>> found = interventions.patch_sweep(model, pairs, ["attn.z"], positions="together")
        >>> check = found.verify(model, prompts.agreement(model, n=8, seed=1), others=2)
        >>> verdict = check.verdict
    """

    place: str
    """The place in words."""
    before: float
    """Its effect in the sweep that it was picked in."""
    left_out: int
    """Pairs that were given and left out, because the sweep has seen their clean prompt."""
    found: PatchingResult
    """The place first, then the others; its random steps are at the place itself."""

    @property
    def standing(self) -> Standing:
        """The place among random steps of the same length there; of an ablation, other places."""
        if len(self.found.tried):
            return self.found.standing(0)
        return standing(self.found.effect[0], self.found.effect[1:], self.found.base)

    @property
    def verdict(self) -> str:
        """What came out, in fixed words."""
        found, (low, high) = self.found, self.found.intervals()
        steps = bool(len(found.tried))
        told = self.standing.told(STEPS_NAMED if steps else OTHERS_NAMED)
        beside = standing(found.effect[0], found.effect[1:], found.base)
        rank = f" {beside.as_far} of {beside.n} {OTHERS_NAMED} move it as far." if steps else ""
        return (
            f"{self.place}: effect {found.effect[0]:.3f} [{low[0]:.3f}, {high[0]:.3f}] on "
            f"{found.n} pairs that the sweep has not seen; no change would be {found.base:.0f}. "
            f"{told}{rank}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per place, the one that was asked for first: effect with its interval, and n."""
        import pandas as pd

        found, (low, high) = self.found, self.found.intervals()
        rows = len(found.site)
        frame = pd.DataFrame({
            "kind": ["the place"] + ["control"] * (rows - 1),
            "place": [named(found, i) for i in range(rows)],
            "effect": found.effect, "low": low, "high": high,
            "n": np.isfinite(found.values).sum(1),
        })  # fmt: skip
        frame.attrs["units"] = {"effect": "0 = corrupted, 1 = clean", "n": "held-out pairs"}
        return frame

    @property
    def frame(self) -> "pd.DataFrame":
        """The same as a value, for code that a page writes."""
        return self.to_frame()

    def summary(self) -> dict[str, float]:
        """Effect before and on the new pairs, its p among the controls, and the numbers of both."""
        return {
            "effect": float(self.found.effect[0]),
            "effect before": self.before,
            "p": self.standing.p,
            "random steps": float(len(self.found.tried)),
            "other places": float(len(self.found.site) - 1),
            "pairs": float(self.found.n),
        }

    def plot(self) -> "go.Figure":
        """The place beside the others, with intervals."""
        from lensbench.plots import scatter

        frame = self.to_frame()
        frame["what"] = np.where(frame["kind"] == "the place", "the place", OTHERS_NAMED)
        return scatter(
            frame, x="place", y="effect", low="low", high="high", color="what",
            hover_columns=("n",), title=f"{self.place} on held-out pairs",
            subtitle=f"n = {self.found.n} pairs; {self.standing.told(STEPS_NAMED)}"
            if len(self.found.tried) else f"n = {self.found.n} pairs",
            labels={"what": "kind"},
        )  # fmt: skip

    def _html_body(self) -> str:
        from lensbench.plots.tables import html_table, safe

        return f"<div>{safe(self.verdict)}</div>{html_table(self.to_frame())}"


def check_place(
    result: PatchingResult,
    model: Model,
    pairs: PromptPairs,
    place: int | None = None,
    *,
    others: int = 20,
    steps: int = 20,
    metric: MetricLike | None = None,
    batch_size: int = 64,
    seed: int = 1,
) -> PlaceCheck:
    """See :meth:`PatchingResult.verify`."""
    index = _chosen(result, place)
    fresh, left_out = _unseen(result, pairs)
    same = [i for i in range(len(result.site)) if i != index
            and Site.parse(result.site[i]).name == Site.parse(result.site[index]).name]  # fmt: skip
    count = whole_number("others", others, least=1)
    if not same:
        raise NotEnoughDataError("this sweep has no other place of the site to compare with")
    drawn = np.random.default_rng(seed).permutation(same)[:count]
    where = [place_at(result, i) for i in (index, *drawn.tolist())]
    engine = Engine(model, fresh, where, result.intervention, _metric(result, metric), batch_size,
                    seed)  # fmt: skip
    able = result.intervention in DIRECTIONS and takes_steps(where[0])
    tried = [0] * (whole_number("steps", steps, least=0) if able else 0)

    def values_of(some: PromptPairs, at: Sequence[Place]) -> Callable[[Group], Any]:
        make = values_for(model, some, at, result.intervention, batch_size, seed)
        rng = torch.Generator().manual_seed(seed)

        def both(group: Group) -> Any:
            to = make(group)
            if not tried:
                return to, None
            here = run_of(model, group.base, group.pairs, [p.site for p in at])[0]
            return to, RandomSteps(cast("Any", to), here, rng)

        return both

    found = run_sweep(engine, values_of, tried)
    return PlaceCheck(
        place=named(result, index), before=float(result.effect[index]), left_out=left_out,
        found=found, config={"place": index, "others": drawn.tolist(), "seed": seed},
        controls=found.controls, provenance=found.provenance,
    )  # fmt: skip


def place_at(result: PatchingResult, index: int) -> Place:
    """The place behind a row of a sweep."""
    at = result.position[index]
    where: int | str | None = None if at == "" else int(at) if at.lstrip("-").isdigit() else at
    head, dim = (None if n < 0 else int(n) for n in (result.head[index], result.dim[index]))
    return Place(Site.parse(result.site[index]), where, head, dim)


def named(result: PatchingResult, index: int) -> str:
    """A place in words."""
    at, head, dim = result.position[index], int(result.head[index]), int(result.dim[index])
    return (
        (f"block {result.layer[index]}" if result.layer[index] >= 0 else result.site[index])
        + (f", head {head}" if head >= 0 else "")
        + (f", dim {dim}" if dim >= 0 else "")
        + (f", {'token ' if at.isdigit() else ''}{at}" if at else "")
    )


def values_for(
    model: Model, pairs: PromptPairs, where: Sequence[Place], how: str, size: int, seed: int
) -> Callable[[Group], Values]:
    """What places are set to by a patch in either direction, or by an ablation."""
    if how not in DIRECTIONS:
        return ablations(model, pairs, where, cast("Any", how), size, seed)
    read = list(dict.fromkeys(p.site for p in where))

    def of_run(group: Group) -> Values:
        source = group.pairs.clean if how == "denoise" else group.pairs.corrupted
        return run_of(model, source, group.pairs, read)[0]

    return of_run


def _chosen(result: PatchingResult, place: int | None) -> int:
    if result.config.get("subspace"):
        raise ConfigError(
            "this sweep patched subspaces, and a result keeps their fingerprint, not their "
            "directions: patch the place on the new pairs with patch_sweep(..., subspace=...)"
        )
    if place is None:
        return result.strongest
    number = whole(place)
    if number is None or not 0 <= number < len(result.site):
        raise ConfigError(
            f"place must be the number of a row of to_frame(), 0 to {len(result.site) - 1}, got "
            f"{place!r}"
        )
    return number


def _unseen(result: PatchingResult, pairs: PromptPairs) -> tuple[PromptPairs, int]:
    """Pairs whose clean prompt the sweep has not seen, and how many it has."""
    seen = set(result.config.get("prompts", ()))
    if not seen and result.config.get("pairs") == pairs.fingerprint():
        seen = {mark_of(ids) for ids in pairs.clean_ids}
    fresh = [i for i, ids in enumerate(pairs.clean_ids) if mark_of(ids) not in seen]
    if len(fresh) < 2:
        raise NotEnoughDataError(
            f"{len(fresh)} of these {len(pairs)} pairs have a clean prompt that the sweep has not "
            "seen; give at least 2 others, such as the task with another seed"
        )
    return pairs.select(fresh), len(pairs) - len(fresh)


def _metric(result: PatchingResult, metric: MetricLike | None) -> Any:
    if metric is not None:
        return as_metric(metric)
    names = {m.whole.name: m.name for m in METRICS.values() if m.whole is not None}
    name = result.metric if result.metric in METRICS else names.get(result.metric)
    if name is None:
        raise ConfigError(f"metric {result.metric!r} of this sweep was your own: pass it again as "
                          "metric=")  # fmt: skip
    return METRICS[name]
