"""One place of a sweep looked at closely: pair by pair, on other pairs, and beside estimates.

Held-out pairs are made with another seed, and none of them has a prompt that the map has seen. The
controls of a place are random steps of the same length there, and other places of the same site.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch

from lensbench.app.workflows.live import Shelf, running
from lensbench.app.workflows.patching import PatchAsk, kept, pairs_for, positions_of, python_of
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.interventions.attribution.check import AttributionCheck
from lensbench.interventions.attribution.nodes import attribute
from lensbench.interventions.metrics import as_metric
from lensbench.interventions.patching.ablation import ablations
from lensbench.interventions.patching.engine import Engine, Group, pick_rows
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.sweep import DIRECTIONS, takes_steps
from lensbench.interventions.patching.whole import run_sweep
from lensbench.interventions.places import Place, places
from lensbench.interventions.values import RandomSteps, run_of
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.sites import Site
from lensbench.standing import LEVEL, Standing, standing
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

OTHERS, STEPS = 20, 20
"""Places drawn as control, and random steps at the place itself."""
STEPS_NAMED, OTHERS_NAMED = "random steps of the same length", "other places drawn at random"
_tables: Shelf[pd.DataFrame] = Shelf(32)
_verified: "Shelf[Verified]" = Shelf(16)
_checks: "Shelf[AttributionCheck]" = Shelf(16)


@dataclass(frozen=True, eq=False)
class Verified:
    """A place and its control on pairs that the map has not seen."""

    place: str
    result: PatchingResult
    """The place first, then the control's places."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row per place: effect with its interval, and what it is."""
        low, high = self.result.intervals()
        rows = len(self.result.site)
        frame = pd.DataFrame({
            "kind": ["the place"] + ["control"] * (rows - 1),
            "place": [_named(self.result, i) for i in range(rows)],
            "effect": self.result.effect, "low": low, "high": high, "n": self.result.n,
        })  # fmt: skip
        frame.attrs["units"] = {"effect": "0 = corrupted, 1 = clean", "n": "held-out pairs"}
        return frame

    @property
    def standing(self) -> Standing:
        """The place among random steps of the same length there; of an ablation, other places."""
        if len(self.result.tried):
            return self.result.standing(0)
        return standing(self.result.effect[0], self.result.effect[1:], self.result.base)

    @property
    def verdict(self) -> str:
        """What came out, in fixed words."""
        own, base, others = self.frame.iloc[0], self.result.base, self.result.effect[1:]
        steps = bool(len(self.result.tried))
        told = self.standing.told(STEPS_NAMED if steps else OTHERS_NAMED)
        beside = standing(own["effect"], others, base)
        rank = f" {beside.as_far} of {beside.n} {OTHERS_NAMED} move it as far." if steps else ""
        return (
            f"{self.place}: effect {own['effect']:.3f} [{own['low']:.3f}, {own['high']:.3f}] on "
            f"{self.result.n} pairs that the map has not seen; no change would be {base:.0f}. "
            f"{told}{rank}"
        )


def verdict_of(result: PatchingResult, index: int) -> str:
    """A cell of the map among the map's random steps, and what that is worth."""
    if not len(result.tried):
        return ("No random steps stand beside ablations and attention patterns: verify the place "
                "beside others.")  # fmt: skip
    if not np.isfinite(result.effect[index]):
        return "No pair has this place, or clean and corrupted runs do not differ: no verdict."
    by_chance = LEVEL * len(result.site)
    return (f"{result.standing(index).told(STEPS_NAMED)} Of the "
            f"{len(result.site)} places of a map about {by_chance:.1f} would stand out by chance: "
            "verify this one.")  # fmt: skip


def place_at(result: PatchingResult, index: int) -> Place:
    """The place behind a cell."""
    at = result.position[index]
    where: int | str | None = None if at == "" else int(at) if at.lstrip("-").isdigit() else at
    head = int(result.head[index])
    return Place(Site.parse(result.site[index]), where, None if head < 0 else head)


def _named(result: PatchingResult, index: int) -> str:
    at, head = result.position[index], int(result.head[index])
    return (
        f"block {result.layer[index]}"
        + (f", head {head}" if head >= 0 else "")
        + (f", {'token ' if at.isdigit() else ''}{at}" if at else "")
    )


def name_of(ask: PatchAsk, index: int) -> str:
    """A cell in words."""
    return _named(kept(ask), index)


def forecast(ask: PatchAsk) -> tuple[int, int, int]:
    """Places, pairs and patched prompts of a sweep, before it is run."""
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        at = positions_of(ask.positions) if ask.positions else None
        n = len(places(model, pairs, list(ask.sites), positions=at))
    control = ask.random_patches if ask.how in DIRECTIONS else 0
    return n, len(pairs), (n + control) * len(pairs)


def pair_by_pair(ask: PatchAsk, index: int, k: int = 3) -> pd.DataFrame:
    """One row per pair: the metric in every run, and what the patched model then says."""
    return _tables.get((ask, index, k), lambda: _table(ask, index, k))


def _table(ask: PatchAsk, index: int, k: int) -> pd.DataFrame:
    result = kept(ask)
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        before, after = _said(model, pairs, place_at(result, index), ask, k)
    patched, clean, corrupted = result.values[index], result.clean, result.corrupted
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = (patched - corrupted) / (clean - corrupted)
    frame = pd.DataFrame({
        "pair": range(1, len(pairs) + 1), "clean prompt": pairs.clean_texts,
        "answer": pairs.answer_texts, "wrong answer": pairs.foil_texts,
        "clean": clean, "corrupted": corrupted, "patched": patched, "effect": effect,
        "said before": before, "says now": after,
    })  # fmt: skip
    frame.attrs["units"] = dict.fromkeys(("clean", "corrupted", "patched"), result.unit)
    return frame


def _said(
    model: "Model", pairs: PromptPairs, place: Place, ask: PatchAsk, k: int
) -> tuple[list[str], list[str]]:
    base = pairs.corrupted if ask.how == "denoise" else pairs.clean
    values = _values(model, pairs, [place], ask)(Group(pairs, np.arange(len(pairs)), base,
                                                       cast("Any", None)))  # fmt: skip
    ops = [values.op(place, row) for row in range(len(pairs))]
    plans = [Plan() if op is None else Plan((place.edit(op, place.at(pairs, row)),))
             for row, op in enumerate(ops)]  # fmt: skip
    rows = pick_rows(base, list(range(len(pairs))))
    plain = model.run(base, logits="last").logits
    done = model.run_many(rows, plans, logits="last", batch_size=ask.batch_size).logits
    assert plain is not None
    assert done is not None
    before, after = _best(model, plain[:, -1], k), _best(model, done[:, -1], k)
    absent = "no such token in this pair"
    return before, [absent if op is None else said for op, said in zip(ops, after, strict=True)]


def _best(model: "Model", logits: Any, k: int) -> list[str]:
    from lensbench.plots import visible

    best = logits.float().softmax(-1).topk(k)
    return [
        ", ".join(f"{visible(w)} {p:.2f}" for w, p in
                  zip(token_texts(model.tokenizer, ids), probs, strict=True))
        for ids, probs in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]  # fmt: skip


def _values(model: "Model", pairs: PromptPairs, where: list[Place], ask: PatchAsk) -> Any:
    read = list(dict.fromkeys(p.site for p in where))
    if ask.how not in DIRECTIONS:
        return ablations(model, pairs, where, cast("Any", ask.how), ask.batch_size, ask.seed)

    def of_run(group: Group) -> Any:
        source = group.pairs.clean if ask.how == "denoise" else group.pairs.corrupted
        return run_of(model, source, group.pairs, read)[0]

    return of_run


def verify(ask: PatchAsk, index: int, seed: int = 1) -> Verified:
    """The place, and others drawn at random, on pairs that the map has not seen.

    Raises:
        ConfigError: typed pairs, of which there are no others.
        NotEnoughDataError: the task has no unseen pairs, or the site no other place.
    """
    if ask.own:
        raise ConfigError(
            "typed pairs have no held-out ones. Choose a built-in task, or patch this place on "
            "other pairs of yours in a second tab"
        )
    return _verified.get((ask, index, seed), lambda: _verify(ask, index, seed))


def _verify(ask: PatchAsk, index: int, seed: int) -> Verified:
    result = kept(ask)
    same = [i for i in range(len(result.site)) if i != index
            and Site.parse(result.site[i]).name == Site.parse(result.site[index]).name]  # fmt: skip
    if not same:
        raise NotEnoughDataError("this sweep has no other place to compare with")
    drawn = np.random.default_rng(seed).permutation(same)[:OTHERS]
    with running(ask.model, ask.revision) as model:
        seen = set(pairs_for(model, ask).clean_ids)
        more = pairs_for(model, replace(ask, seed=ask.seed + seed, n=2 * ask.n))
        fresh = [i for i, ids in enumerate(more.clean_ids) if ids not in seen][: ask.n]
        if len(fresh) < 2:
            raise NotEnoughDataError("this task has fewer than 2 pairs that the map has not seen")
        pairs = more.select(fresh)
        where = [place_at(result, i) for i in (index, *drawn.tolist())]
        engine = Engine(model, pairs, where, ask.how, as_metric(ask.metric), ask.batch_size, seed)

        tried = [0] * STEPS if ask.how in DIRECTIONS and takes_steps(where[0]) else []

        def values(some: PromptPairs, at: Any) -> Any:
            make, rng = _values(model, some, list(at), ask), torch.Generator().manual_seed(seed)

            def both(group: Group) -> Any:
                to = make(group)
                if not tried:
                    return to, None
                here = run_of(model, group.base, group.pairs, [p.site for p in at])[0]
                return to, RandomSteps(to, here, rng)

            return both

        return Verified(_named(result, index), run_sweep(engine, values, tried))


def checked(ask: PatchAsk, method: str, top: int = 10, random: int = 20) -> AttributionCheck:
    """Estimates from gradients beside the patches they stand for.

    Raises:
        ConfigError: an ablation, or what this method cannot estimate.
    """
    if ask.how not in DIRECTIONS:
        raise ConfigError("estimates stand for patches; choose denoise or noise, not an ablation")

    def make() -> AttributionCheck:
        with running(ask.model, ask.revision) as model:
            pairs = pairs_for(model, ask)
            at = positions_of(ask.positions) if ask.positions else None
            found = attribute(model, pairs, list(ask.sites), method=cast("Any", method),
                              direction=cast("Any", ask.how), metric=ask.metric, positions=at,
                              batch_size=ask.batch_size, seed=ask.seed)  # fmt: skip
            return found.verify(model, pairs, top=top, random=random, seed=ask.seed)

    return _checks.get((ask, method, top, random), make)


def baselines(result: PatchingResult, index: int, name: str) -> pd.DataFrame:
    """The metric of a place beside those of the clean, the corrupted and a random run."""
    rows = [("clean", result.clean), ("corrupted", result.corrupted)]
    rows += [("random patch", result.random)] if len(result.tried) else []
    rows += [(name, result.values[index])]
    frame = pd.DataFrame({"run": [r for r, _ in rows],
                          "value": [float(np.nanmean(v)) for _, v in rows],
                          "n": [int(np.isfinite(v).sum()) for _, v in rows]})  # fmt: skip
    frame.attrs["units"] = {"value": result.unit, "n": "values"}
    return frame


def baselines_figure(result: PatchingResult, index: int, name: str) -> "go.Figure":
    """Bars of :func:`baselines`."""
    from lensbench.plots import bars

    return bars(
        baselines(result, index, name), x="run", y="value", title="Beside its baselines",
        subtitle=f"{result.metric}, n = {result.n} pairs", height=340,
    )  # fmt: skip


def baselines_code(ask: PatchAsk, index: int, name: str) -> str:
    """Python that draws :func:`baselines_figure` in a notebook."""
    sweep = python_of(ask).rstrip().removesuffix("result.plot()")
    return (
        "from lensbench.app.workflows.patch_cell import baselines_figure\n"
        f"{sweep}baselines_figure(result, {index}, {name!r})\n"
    )
