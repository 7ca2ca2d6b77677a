"""One place of a sweep looked at closely: pair by pair, on other pairs, and beside estimates.

Held-out pairs are made with another seed, and none of them has a prompt that the map has seen. The
controls of a place are random steps of the same length there, and other places of the same site.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from lensbench.app.workflows.live import Shelf, running
from lensbench.app.workflows.patching import PatchAsk, kept, pairs_for, positions_of
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.attribution.check import AttributionCheck
from lensbench.interventions.attribution.nodes import attribute
from lensbench.interventions.metrics import said
from lensbench.interventions.patching.check import (
    STEPS_NAMED,
    PlaceCheck,
    named,
    place_at,
    values_for,
)
from lensbench.interventions.patching.engine import Group, pick_rows
from lensbench.interventions.patching.result import PatchingResult
from lensbench.interventions.patching.sweep import DIRECTIONS
from lensbench.interventions.places import Place, places
from lensbench.plan import Plan
from lensbench.prompts.pairs import PromptPairs
from lensbench.standing import LEVEL
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from lensbench.models import Model

VERIFIED = "verified"
"""Folder beside a sweep for what verified a place of it."""
OTHERS, STEPS = 20, 20
"""Places drawn as control, and random steps at the place itself."""
NO_OTHERS = (
    "pairs of a file have no held-out ones. Verify on a second file in Python: "
    "result.verify(model, PromptPairs.from_json(text)); or take a built-in task"
)
_tables: Shelf[pd.DataFrame] = Shelf(32)
_verified: "Shelf[PlaceCheck]" = Shelf(16)
_checks: "Shelf[AttributionCheck]" = Shelf(16)


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


def name_of(ask: PatchAsk, index: int) -> str:
    """A cell in words."""
    return named(kept(ask), index)


def forecast(ask: PatchAsk) -> tuple[int, int, int]:
    """Places, pairs and patched prompts of a sweep, before it is run."""
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        at = positions_of(ask.positions) if ask.positions else None
        n = len(places(model, pairs, list(ask.sites), positions=at))
    control = ask.random_patches if ask.how in DIRECTIONS else 0
    return n, len(pairs), (n + control) * len(pairs)


def pair_by_pair(ask: PatchAsk, index: int, k: int = 3) -> pd.DataFrame:
    """One row per pair: the metric in every run, and the ``k`` tokens that are then said.

    With ``k`` 0 no model is run: what is said before and after is left out.
    """
    return _tables.get((ask, index, k), lambda: _table(ask, index, k))


def _table(ask: PatchAsk, index: int, k: int) -> pd.DataFrame:
    result, said = kept(ask), dict[str, list[str]]()
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        if k:
            before, after = _said(model, pairs, place_at(result, index), ask, k)
            said = {"said before": before, "says now": after}
    patched, clean, corrupted = result.values[index], result.clean, result.corrupted
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = (patched - corrupted) / (clean - corrupted)
    frame = pd.DataFrame({
        "pair": range(1, len(pairs) + 1), "clean prompt": pairs.clean_texts,
        "answer": pairs.answer_texts, "wrong answer": pairs.foil_texts,
        "clean": clean, "corrupted": corrupted, "patched": patched, "effect": effect, **said,
    })  # fmt: skip
    frame.attrs["units"] = dict.fromkeys(("clean", "corrupted", "patched"), result.unit)
    return frame


def _said(
    model: "Model", pairs: PromptPairs, place: Place, ask: PatchAsk, k: int
) -> tuple[list[str], list[str]]:
    base = pairs.corrupted if ask.how == "denoise" else pairs.clean
    make = values_for(model, pairs, [place], ask.how, ask.batch_size, ask.seed)
    values: Any = make(Group(pairs, np.arange(len(pairs)), base, cast("Any", None)))
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


def verify(ask: PatchAsk, index: int, seed: int = 1) -> PlaceCheck:
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


def _verify(ask: PatchAsk, index: int, seed: int) -> PlaceCheck:
    return on_new_pairs(ask, kept(ask), index, seed)


def on_new_pairs(
    ask: PatchAsk, result: PatchingResult, index: int | None = None, seed: int = 1
) -> PlaceCheck:
    """A place of a sweep (left out, the strongest) on as many other pairs of its task.

    Raises:
        ConfigError: pairs of a file, of which there are no others.
        NotEnoughDataError: the task has no unseen pairs, or the site no other place.
    """
    if ask.pairs:
        raise ConfigError(NO_OTHERS)
    with running(ask.model, ask.revision) as model:
        seen = set(pairs_for(model, ask).clean_ids)
        more = pairs_for(model, replace(ask, seed=ask.seed + seed, n=2 * ask.n))
        fresh = [i for i, ids in enumerate(more.clean_ids) if ids not in seen][: ask.n]
        if len(fresh) < 2:
            raise NotEnoughDataError("this task has fewer than 2 pairs that the map has not seen")
        return result.verify(model, more.select(fresh), index, others=OTHERS, steps=STEPS,
                                batch_size=ask.batch_size, seed=seed)  # fmt: skip


def place_named(result: PatchingResult, name: str) -> int | None:
    """Number of a place by its name in words; None for no name.

    Raises:
        UnknownNameError: the sweep has no such place.
    """
    if not name:
        return None
    names = [named(result, i) for i in range(len(result.site))]
    if name not in names:
        raise UnknownNameError("place", name, known=names)
    return names.index(name)


def checked(ask: PatchAsk, method: str, top: int = 10, random: int = 20) -> AttributionCheck:
    """Estimates from gradients beside the patches they stand for.

    Raises:
        ConfigError: an ablation, or what this method cannot estimate.
    """
    check_how(ask)

    def make() -> AttributionCheck:
        with running(ask.model, ask.revision) as model:
            pairs = pairs_for(model, ask)
            at = positions_of(ask.positions) if ask.positions else None
            found = attribute(model, pairs, list(ask.sites), method=cast("Any", method),
                              direction=cast("Any", ask.how), metric=ask.metric, positions=at,
                              batch_size=ask.batch_size, seed=ask.seed)  # fmt: skip
            return found.verify(model, pairs, top=top, random=random, seed=ask.seed)

    return _checks.get((ask, method, top, random), make)


def check_how(ask: PatchAsk) -> None:
    """Refuse an ablation, which no estimate stands for.

    Raises:
        ConfigError: it is one.
    """
    if ask.how not in DIRECTIONS:
        raise ConfigError("estimates stand for patches; choose denoise or noise, not an ablation")


def baselines_figure(result: PatchingResult, index: int) -> "go.Figure":
    """Bars of a place beside the runs of the pairs that have it."""
    from lensbench.plots import bars

    frame = result.beside(index)
    n, drawn = int(frame["n"].iloc[-1]), len(result.tried)
    left = "" if n == result.n else f" of {result.n}: those with this place"
    return bars(
        frame, x="run", y="value", title="Beside its baselines", height=340,
        subtitle=f"{said(result.metric)} · n = {n} pairs{left}"
        + f" · random: mean of {drawn} steps" * bool(drawn),
    )  # fmt: skip
