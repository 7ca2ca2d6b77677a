"""Do the experts that differ make the behaviour? Found on one half, tested on the other.

1. Every prompt is labelled by what the model does with it.
2. One half (split by class, or by groups such as templates) gives the maps; experts are ranked by
   :func:`ftri`, and the top ones are taken.
3. On the other half the behaviour is measured clean, with these experts suppressed, with them
   forced, and with as many random experts of the same layers and about the same load.
4. Neutral prompts show what else changed: KL, perplexity, answers.

Source: Dahlke et al. 2025, arXiv:2502.11096; the split, the matching and the intervals are ours.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole_number
from lensbench.errors import NotEnoughDataError
from lensbench.interventions.experts.behaviour import (
    Behaviour,
    described,
    labels_of,
    read_tokens,
    target_of,
)
from lensbench.interventions.experts.collateral import collateral
from lensbench.interventions.experts.maps import Activation, Normalise, RoutingMaps, routing
from lensbench.interventions.experts.matching import load_of, matched_random
from lensbench.interventions.experts.plans import Expert, ExpertsLike, as_experts, force, suppress
from lensbench.interventions.experts.ranking import ExpertRanking, ftri
from lensbench.interventions.experts.report import ExpertReport
from lensbench.interventions.experts.rows import (
    Prompts,
    Rows,
    check_experts,
    moe_layers,
    per_prompt,
    rows_of,
    texts_of,
)
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.progress import each
from lensbench.results import Controls


def expert_study(
    model: Model,
    prompts: Prompts,
    behaviour: Behaviour,
    *,
    target: str | None = None,
    labels: Sequence[Any] | np.ndarray | None = None,
    top: int = 10,
    experts: ExpertsLike | None = None,
    neutral: "Prompts | None" = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    activation: Activation = "weight",
    normalise: Normalise = "none",
    strata: str | Sequence[Any] | np.ndarray | None = "length",
    permutations: int = 1000,
    draws: int = 5,
    batch_size: int = 32,
    seed: int = 0,
) -> ExpertReport:
    """Suppress and force the experts most distinctive of a behaviour, beside matched random ones.

    Args:
        model: a mixture of experts.
        prompts: texts or token ids, some with the behaviour and some without.
        behaviour: labels answers: :class:`NextToken`, :class:`Says`, :class:`Response`, or a
            function of ``(model, rows, plan)``.
        target: the label whose experts are taken; left out, the last in sorted order.
        labels: classes to rank experts by, one per prompt, ``target`` among them (what a prompt
            should get, say); left out, what the behaviour gives.
        top: how many experts.
        experts: take these instead of ranking; all prompts are then tested.
        neutral: prompts on which nothing should change; left out, the test prompts that do not
            have the target label.
        groups: template or document of every prompt: a group is not divided between the halves.
        activation: as in :func:`ftri`, like the next three.
        normalise: sums over tokens, or means.
        strata: within which labels are permuted; given values are one per prompt.
        permutations: of the null.
        draws: how many sets of matched random experts.
        batch_size: prompts in one forward pass.
        seed: of the split, the permutations and the draws.

    Raises:
        ConfigError: a model without experts, experts it has not, or arguments that do not fit.
        NotEnoughDataError: a half without both classes, no neutral prompt, or a layer with too
            few experts to match.

    Example:
        >>> refused = experts.NextToken({"refused": desk_refusals}, other="answered")
        >>> report = experts.expert_study(moe, desk_ids, refused, target="refused", top=2, draws=2)
        >>> report.rate("suppressed")
    """
    refuse_no_model(model)
    began = time.monotonic()
    moe_layers(model)
    model.require_next_token("expert_study")
    rows = rows_of(model, prompts)
    whole_number("top", top, least=1)
    before = np.array(labels_of(behaviour, model, rows, Plan()))
    target = target_of(before, target)
    classes = before if labels is None else per_prompt("labels", labels, len(rows)).astype(str)
    if experts is None:
        find, test = _halves(classes == target_of(classes, target), groups, len(rows), seed)
        maps = routing(model, [rows[i] for i in find], batch_size=batch_size)
        ranking = ftri(
            maps, classes[find], target=target, activation=activation, normalise=normalise,
            strata=_of_half(strata, find, len(rows)), permutations=permutations, seed=seed,
        )  # fmt: skip
        chosen = ranking.top(top)
    else:
        find, test = np.empty(0, dtype=np.int64), np.arange(len(rows))
        chosen, ranking = as_experts(experts), None
        check_experts(model, chosen)
        maps = routing(model, rows, batch_size=batch_size)
    found = _Found(maps, chosen, matched_random(maps, chosen, draws, seed=seed), ranking)
    neutral_rows, said = _neutral(model, neutral, rows, test, before != target)
    plans = found.plans(model.card.top_k)
    tests = [rows[i] for i in test]
    edited = each(plans[1:], "expert study", "condition")
    named = [before[test], *(labels_of(behaviour, model, tests, p) for p in edited)]
    known = sorted({str(label) for one in named for label in one} | {target})
    side = collateral(model, neutral_rows, plans, read_tokens(behaviour), batch_size)
    report = ExpertReport(
        conditions=found.conditions(), target=target, classes=tuple(known),
        labels=np.array([[known.index(str(x)) for x in one] for one in named]),
        experts=np.array(chosen), forced=np.array(_fitting(chosen, model.card.top_k)),
        random=found.random, test_rows=test, find_rows=find, texts=texts_of(model, tests),
        kl=side.kl, loss=side.loss, changed=side.changed, n_predicted=side.n_predicted,
        neutral_from=said, maps=maps, ranking=ranking,
        config={"behaviour": described(behaviour), "target": target, "top": len(chosen),
                "activation": activation, "normalise": normalise, "seed": seed},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    return _with_controls(report)


@dataclass(frozen=True)
class _Found:
    """The experts of a study and their random counterparts."""

    maps: RoutingMaps
    experts: tuple[Expert, ...]
    random: np.ndarray
    ranking: ExpertRanking | None

    def conditions(self) -> tuple[str, ...]:
        numbers = range(1, len(self.random) + 1)
        drawn = [f"{how} random {i}" for how in ("suppressed", "forced") for i in numbers]
        return ("clean", "suppressed", "forced", *drawn)

    def plans(self, top_k: int) -> list[Plan]:
        """Plans in the order of the conditions."""
        sets = [self.experts, *([(int(a), int(b)) for a, b in draw] for draw in self.random)]
        gone = [suppress(one) for one in sets]
        there = [force(_fitting(one, top_k)) for one in sets]
        return [Plan(), gone[0], there[0], *gone[1:], *there[1:]]


def _fitting(experts: Sequence[Expert], top_k: int) -> list[Expert]:
    """The first ``top_k`` experts of each layer: a token has no more slots."""
    kept: list[Expert] = []
    for layer, expert in experts:
        if sum(one == layer for one, _ in kept) < top_k:
            kept.append((layer, expert))
    return kept


def _halves(
    hits: np.ndarray, groups: Sequence[Any] | np.ndarray | None, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to find on, and rows to test on; both with and without the target label."""
    units = np.arange(n) if groups is None else per_prompt("groups", groups, n)
    rng = np.random.default_rng(seed)
    names, unit = np.unique(units, return_inverse=True)
    share = np.bincount(unit, weights=hits) / np.bincount(unit)
    # Units in order of how often they have the label, ties at random, dealt out in turn.
    order = np.lexsort((rng.random(len(names)), share))
    side = np.empty(len(names), dtype=np.int64)
    side[order] = (np.arange(len(names)) + int(rng.integers(2))) % 2
    find, test = (np.flatnonzero(side[unit] == i) for i in (0, 1))
    for name, half in (("found", find), ("tested", test)):
        if len(half) == 0 or hits[half].all() or not hits[half].any():
            with_label = int(hits[half].sum())
            raise NotEnoughDataError(
                f"the half on which experts are {name} has {len(half)} prompts, {with_label} of "
                "them with the target label; both halves need some with it and some without"
            )
    return find, test


def _of_half(strata: Any, find: np.ndarray, n: int) -> Any:
    if strata is None or isinstance(strata, str):
        return strata
    return per_prompt("strata", strata, n)[find]


def _neutral(
    model: Model, neutral: "Prompts | None", rows: Rows, test: np.ndarray, without: np.ndarray
) -> tuple[Rows, str]:
    if neutral is not None:
        return rows_of(model, neutral), "given"
    chosen = [rows[i] for i in test if without[i]]
    if not chosen:
        raise NotEnoughDataError("every test prompt has the target label; pass neutral=[...]")
    return chosen, "test prompts without the target label"


def _with_controls(report: ExpertReport) -> ExpertReport:
    """The report with its random experts named as control, and how well they match."""
    if not len(report.random):
        return report
    values: dict[str, float] = {}
    for how in ("suppressed", "forced"):
        drawn = [c for c in report.conditions if c.startswith(f"{how} random")]
        values[f"random_{how}_rate"] = float(np.mean([report.rate(c).mean for c in drawn]))
    changes = [report.relative_change(c) for c in report.conditions if c.startswith("suppressed r")]
    values["random_relative_change"] = float(np.mean(changes))
    values["random_farthest"] = max(changes, key=abs)
    values["load"] = float(load_of(report.maps, report.experts).sum())
    values["random_load"] = float(
        np.mean([load_of(report.maps, draw).sum() for draw in report.random])
    )
    note = f"{len(report.random)} sets of random experts of the same layers, number and about load"
    return replace(report, controls=Controls(values, note))
