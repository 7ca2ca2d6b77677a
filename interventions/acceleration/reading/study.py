"""Reading an accelerated model: one pass per acceleration, the same read-outs, controls beside.

1. The full model and every accelerated one run over the text, clean and (where asked) steered.
2. Every read-out is applied to the states of both, and compared token by token.
3. Control ``shuffled``: the accelerated states dealt to other tokens. Control ``random``: models
   that lack as many layers before the read-out's site, but others.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import io, provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.reading.compare import (
    EFFECTS,
    HEADLINE,
    SIMILAR,
    Sums,
    moved,
    similar,
)
from lensbench.interventions.acceleration.reading.readers import (
    Reader,
    readers,
    refuse_missing,
)
from lensbench.interventions.acceleration.reading.result import Readability
from lensbench.interventions.acceleration.reading.ways import (
    HALVES,
    States,
    Texts,
    Way,
    named_ways,
    states,
)
from lensbench.interventions.acceleration.skipping.route import Route
from lensbench.interventions.experts.rows import rows_of
from lensbench.models.base import Model
from lensbench.plan import Plan, as_plan
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.stats import bootstrap_sums
from lensbench.tokens import TokensLike

_ALL_SETS = 2000
Pair = tuple[States, States]
"""States of a model, clean and steered (the same object where there is no steer)."""


def readability(
    model: Model,
    text: "TokensLike | Sequence[str]",
    accelerations: Mapping[str, Plan | Route],
    readouts: Mapping[str, Any],
    steer: Plan | None = None,
    *,
    metric: Callable[[Tensor], Tensor] | None = None,
    n_random: int = 3,
    seed: int = 0,
    batch_size: int = 16,
) -> Readability:
    """Does a probe, a lens or a dictionary read the same on the accelerated model, steered or not?

    Teacher-forced: all models read the same tokens. Decisions of probes and lenses are held against
    each other token by token (``agreement``), values by ``correlation`` and ``fvu`` =
    ``sum |f - a|^2 / sum |f - mean f|^2`` (f on the full model, a on the accelerated one), latents
    also by the sets that fire (``jaccard``, ``f1``). With a steer, ``effect_kept`` =
    ``<s_f, s_a> / |s_f|^2`` says how much of what it moves on the full model (s_f) it moves on the
    accelerated one (s_a): 1 all of it, 0 nothing, below 0 the reverse.

    Args:
        model: a decoder-only model.
        text: documents as strings or ids.
        accelerations: name to ``skip_layers([3])``, ``Plan(stop=4)`` (an early exit) or a
            :class:`Route`. Edits in such a plan belong to the acceleration.
        readouts: name to a probe, a direction, a dictionary (SAE) or a lens; ``(site, readout)``
            where it does not know its site. A lens without one is read after every block that all
            accelerations run. The model's own output is always read beside them.
        steer: edits that run on both models, in the same plan as the skips.
        metric: a number per token from its logits ``[tokens, d_vocab]``, read like a probe's score.
        n_random: models with as many layers skipped at random, per acceleration and site.
        seed: of these draws and of the shuffle.
        batch_size: documents per pass.

    Raises:
        ConfigError: nothing to compare, a read-out or steer on a layer that an acceleration does
            not run, a steer that skips, or a model that predicts no next token.
        MismatchError: a read-out made for another model.

    Example:
        >>> kept = {"without 4": acceleration.without(6, [4])}
        >>> asked = [text, "The king that the boys know"]
        >>> found = acceleration.readability(model, asked, kept, {"dictionary": run}, n_random=1)
    """
    began = time.monotonic()
    refuse_no_model(model)
    model.require_next_token("reading an accelerated model")
    ways = named_ways(accelerations, model.n_layers)
    found = readers(model, readouts, metric, ways)
    refuse_missing(found, ways)
    push = Plan() if steer is None else _steer(steer, ways)
    documents = rows_of(model, text)
    texts = Texts.of(documents, whole_number("batch_size", batch_size, least=1))
    draws = whole_number("n_random", n_random, least=0)
    study = _Study(model, texts, found, push, draws, np.random.default_rng(seed))
    rows = [row for one in ways for row in study.rows(one)]  # 1, 2, 3
    return Readability(
        rows=tuple(row.names for row in rows),
        **{name: np.array([getattr(row, name) for row in rows]) for name in _NUMBERS},
        n_documents=len(documents),
        n_tokens=len(texts.doc),
        headline={reader.name: HEADLINE[reader.kind] for reader in found},
        config={
            "accelerations": {one.name: str(one.how) for one in ways},
            "steer": push.to_json() if push.reproducible else str(push),
            "text": io.fingerprint([[int(i) for i in row] for row in documents]),
            "n_random": draws,
            "seed": seed,
        },
        controls=_controls(rows),
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )


@dataclass(frozen=True)
class _Row:
    names: tuple[str, str, str, str, str]
    value: float
    low: float
    high: float
    random: float
    shuffled: float
    skipped_before: float


_NUMBERS = ("value", "low", "high", "random", "shuffled", "skipped_before")


class _Study:
    """The full model's states, and what every way makes of them."""

    def __init__(
        self, model: Model, texts: Texts, found: list[Reader], steer: Plan, n_random: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.model, self.texts, self.readers = model, texts, found
        self.steer, self.n_random, self.rng = steer, n_random, rng
        self.sites = list(dict.fromkeys(reader.site for reader in found))
        self.order = torch.from_numpy(rng.permutation(len(texts.doc)))
        self.full = self._run(Plan(), self.sites)
        self.drawn: dict[Any, Pair] = {}

    def rows(self, one: Way) -> list[_Row]:
        """Every read-out on one accelerated model, in every condition."""
        fast = self._run(one.how, self.sites)
        mixed: Pair = tuple({s: x[self.order] for s, x in part.items()} for part in fast)  # pyright: ignore[reportAssignmentType] - two go in
        others = {site: self._random(one, site) for site in self.sites}
        return [
            row
            for reader in self.readers
            for row in self._of(one, reader, fast, mixed, others[reader.site])
        ]

    def _of(
        self, one: Way, reader: Reader, fast: Pair, mixed: Pair, others: list[Pair]
    ) -> list[_Row]:
        found: list[_Row] = []
        conditions = ("clean", "steered", "effect") if self.steer else ("clean",)
        for condition in conditions:
            sums, names = self._sums(reader, condition, fast)
            floor = self._sums(reader, condition, mixed)[0]
            random = [self._sums(reader, condition, other)[0] for other in others]
            for name in names:
                measure = (EFFECTS if condition == "effect" else SIMILAR)[name]
                value, low, high = _interval(measure, sums)
                drawn = [float(measure(_total(s))) for s in random]
                found.append(
                    _Row(
                        (one.name, condition, reader.name, reader.place, name),
                        value, low, high,
                        random=float(np.mean(drawn)) if drawn else float("nan"),
                        shuffled=float(measure(_total(floor))),
                        skipped_before=len(one.before(reader.site)) / 2,
                    )
                )  # fmt: skip
        return found

    def _sums(self, reader: Reader, condition: str, other: Pair) -> tuple[Sums, tuple[str, ...]]:
        full, a, doc = self.full, other, self.texts.doc
        site = reader.site
        if condition == "effect":
            return moved(reader, (full[0][site], full[1][site]), (a[0][site], a[1][site]), doc)
        at = int(condition == "steered")
        return similar(reader, full[at][site], a[at][site], doc)

    def _run(self, how: Plan | Route, sites: Iterable[Site | None]) -> Pair:
        clean = states(self.model, self.texts, how, Plan(), sites)
        if not self.steer:
            return clean, clean
        return clean, states(self.model, self.texts, how, self.steer, sites)

    def _random(self, one: Way, site: Site | None) -> list[Pair]:
        """Models that lack as much before a site as this one, but not the same."""
        gone = one.before(site)
        kept = {edit.site.layer for edit in self.steer.edits}
        end = self.model.n_layers if site is None else int(site.layer or 0)
        free = [i for i in range(end) if i not in kept]
        if not gone:
            return []
        if not one.halves:
            sets = _draw(free, {i for _, i in gone}, self.n_random, self.rng)
            return [self._other(frozenset(s), Plan(skips=frozenset(s)), site) for s in sets]
        sets = _draw([(h, i) for i in free for h in HALVES], gone, self.n_random, self.rng)
        whole = tuple(range(self.model.n_layers))
        return [self._other(frozenset(s), Route(whole, frozenset(s)), site) for s in sets]

    def _other(self, gone: frozenset[Any], how: Plan | Route, site: Site | None) -> Pair:
        if (gone, site) not in self.drawn:
            self.drawn[gone, site] = self._run(how, [site])
        return self.drawn[gone, site]


def _draw(
    of: Sequence[Any], not_these: Iterable[Any], count: int, rng: np.random.Generator
) -> list[tuple[Any, ...]]:
    """Different sets of as many, other than these."""
    given = frozenset(not_these)
    size = len(given)
    if comb(len(of), size) <= _ALL_SETS:
        every = [s for s in combinations(of, size) if frozenset(s) != given]
        chosen = rng.permutation(len(every))[:count]
        return [every[i] for i in chosen]
    found: dict[frozenset[Any], tuple[Any, ...]] = {}
    while len(found) < count:
        drawn = tuple(of[i] for i in sorted(rng.choice(len(of), size, replace=False)))
        if frozenset(drawn) != given:
            found[frozenset(drawn)] = drawn
    return list(found.values())


def _steer(steer: Any, ways: Sequence[Way]) -> Plan:
    """A plan of edits alone, at blocks that every acceleration runs.

    Raises:
        ConfigError: skips, a stop, or an edit where there is nothing to edit.
    """
    plan = as_plan(steer)
    if plan.skips or plan.stop is not None or not plan.edits:
        raise ConfigError(
            "steer must hold edits and no skips or stop, which belong among the accelerations; got "
            f"{plan}"
        )
    for edit in plan.edits:
        if edit.site.layer is None or edit.rows is not None:
            raise ConfigError(f"steer must act at sites in blocks, on all rows; got {edit}")
        for one in ways:
            if one.lacks(edit.site):
                raise ConfigError(
                    f"steer acts at {edit.site}, which acceleration {one.name!r} never computes: "
                    "steer at a layer that runs"
                )
    return plan


def _total(sums: Sums) -> dict[str, np.ndarray]:
    return {key: np.asarray(values.sum()) for key, values in sums.items()}


def _interval(
    measure: Callable[[Mapping[str, np.ndarray]], np.ndarray], sums: Sums
) -> tuple[float, float, float]:
    found = bootstrap_sums(
        lambda *totals: measure(dict(zip(sums, totals, strict=True))), *sums.values()
    )
    value, low, high = (float(x) for x in found)
    return value, low, high


def _controls(rows: Sequence[_Row]) -> Controls:
    """Means of both controls over the headline measures of the clean read-outs."""
    chosen = [r for r in rows if r.names[1] == "clean" and r.names[4] in ("agreement", "jaccard")]
    values = {
        name: float(np.nanmean(found))
        for name in ("random", "shuffled")
        if not np.isnan(found := np.array([getattr(r, name) for r in chosen])).all()
    }
    note = "random: as many other layers skipped before the site; shuffled: other tokens' states"
    return Controls(values, note)
