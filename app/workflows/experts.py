"""Experts by names: model, prompts and behaviour as a user typed them, answers as plain facts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lensbench.app.workflows.answers import facts_of, rows_of_frame, saved_in
from lensbench.app.workflows.expert_page import DRAWS, NO, YES, verdicts
from lensbench.app.workflows.expert_prompts import NamedPrompts, find_prompts
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.models import open_model
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.interventions.experts.plans import Expert

if TYPE_CHECKING:
    from lensbench.interventions.experts.maps import Activation, Normalise
    from lensbench.interventions.experts.scan import How


def map_experts(
    model: str,
    prompts: str = "",
    *,
    store: str = "",
    top: int = 10,
    batch_size: int = 32,
    out: Path | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Who the tokens of some prompts, or of a store, are routed to; the busiest experts first.

    Raises:
        ConfigError: neither prompts nor a store, or both.
        LensbenchError: see ``experts.routing`` and ``experts.stored_routing``.
    """
    if bool(prompts) == bool(store):
        raise ConfigError("give one of --prompts (the model is run) and --store (it is not), got "
                          f"{'both' if store else 'neither'}")  # fmt: skip
    named = find_prompts(prompts) if prompts else None
    opened = open_model(model, revision)
    if named is None:
        maps = experts.stored_routing(hold_store(store), opened)
    else:
        maps = experts.routing(opened, named.texts, batch_size=batch_size)
    frame = maps.to_frame().sort_values("load", ascending=False, kind="stable")
    facts = facts_of(opened, maps, experts=rows_of_frame(frame, top))
    return {**facts, **saved_in(maps, out)}


def rank_experts(
    model: str,
    prompts: str,
    *,
    says: Sequence[str] = (),
    new_tokens: int = 16,
    target: str | None = None,
    activation: str = "weight",
    normalise: str = "none",
    permutations: int = 1000,
    free: bool = False,
    top: int = 10,
    batch_size: int = 32,
    seed: int = 0,
    out: Path | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Experts by how differently two classes of prompts use them.

    Classes are those of the file, or what the model says.

    Raises:
        ConfigError: neither labels in the file nor a phrase.
        LensbenchError: see :func:`lensbench.interventions.experts.ftri`.
    """
    named = find_prompts(prompts)
    if named.labels is None and not says:
        raise ConfigError(
            f'{prompts} has no labels: add a "label" to every line of a .jsonl file, or name what '
            "the model says with --says"
        )
    opened = open_model(model, revision)
    labels: Sequence[str] = named.labels or ()
    if says:
        from lensbench.interventions.experts.rows import rows_of
        from lensbench.plan import Plan

        behaviour = _behaviour(named, says, new_tokens, batch_size)
        labels = behaviour(opened, rows_of(opened, named.texts), Plan())
        target = target or YES
    maps = experts.routing(opened, named.texts, batch_size=batch_size)
    found = experts.ftri(
        maps, labels, target=target, activation=cast("Activation", activation),
        normalise=cast("Normalise", normalise), strata=None if free else "length",
        permutations=permutations, seed=seed,
    )  # fmt: skip
    frame = found.to_frame()
    rows = rows_of_frame(frame.take(np.flatnonzero(frame["class"] == found.target)), top)
    facts = facts_of(opened, found, target=found.target, experts=rows)
    facts["classes"] = dict(zip(found.classes, found.n.tolist(), strict=True))
    facts["exchangeable"] = found.exchangeable
    return {**facts, **saved_in(found, out)}


def suppress_experts(
    model: str,
    prompts: str,
    *,
    says: Sequence[str] = (),
    new_tokens: int = 16,
    chosen: str = "",
    top: int = 10,
    neutral: str = "",
    activation: str = "weight",
    normalise: str = "none",
    free: bool = False,
    draws: int = DRAWS,
    batch_size: int = 32,
    seed: int = 0,
    out: Path | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """The study: experts found on one half (or given), suppressed and forced on the other.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.experts.expert_study`.
    """
    given = read_experts(chosen) if chosen.strip() else None
    named = find_prompts(prompts)
    other = find_prompts(neutral, "--neutral", neutral=True).texts if neutral else None
    behaviour = _behaviour(named, says, new_tokens, batch_size)
    opened = open_model(model, revision)
    report = experts.expert_study(
        opened, named.texts, behaviour, target=YES, top=top, experts=given, neutral=other,
        groups=named.groups, activation=cast("Activation", activation),
        normalise=cast("Normalise", normalise), strata=None if free else "length", draws=draws,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    facts = facts_of(
        opened, report, says=list(behaviour.phrases), experts=rows_of_frame(report.experts_frame())
    )
    facts["conditions"] = rows_of_frame(report.to_frame())
    facts["changed"] = rows_of_frame(report.changed_prompts())
    facts["neutral"] = report.neutral_from
    facts["verdicts"] = _verdicts(report) if draws else {}
    return {**facts, **saved_in(report, out)}


def scan_experts(
    model: str,
    prompts: str,
    *,
    says: Sequence[str] = (),
    new_tokens: int = 16,
    how: str = "suppress",
    layers: str = "",
    top: int = 10,
    batch_size: int = 64,
    out: Path | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """Every single expert, one at a time; the strongest first.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.experts.expert_scan`.
    """
    named = find_prompts(prompts)
    numbers = _numbers(layers) if layers.strip() else None
    behaviour = _behaviour(named, says, new_tokens, batch_size)
    opened = open_model(model, revision)
    found = experts.expert_scan(
        opened, named.texts, behaviour, target=YES, how=cast("How", how), layers=numbers,
        batch_size=batch_size,
    )  # fmt: skip
    facts = facts_of(
        opened,
        found,
        says=list(behaviour.phrases),
        how=how,
        experts=rows_of_frame(found.to_frame(), top),
    )
    return {**facts, **saved_in(found, out)}


def _verdicts(report: experts.ExpertReport) -> dict[str, dict[str, Any]]:
    """Suppressed and forced among the random experts, in words and numbers."""
    found = {how: (told, report.standing(how)) for how, told in verdicts(report).items()}
    return {
        how: {"verdict": told, "stands_out": at.stands_out, "p": at.p, "as_far": at.as_far,
              "random_sets": at.n}
        for how, (told, at) in found.items()
    }  # fmt: skip


def read_experts(text: str) -> list[Expert]:
    """``1:6,2:3`` as pairs of layer and expert.

    Raises:
        ConfigError: anything else.
    """
    parts = [p for p in re.split(r"[,\s]+", text.strip()) if p]
    for part in parts:
        if not re.fullmatch(r"\d+:\d+", part):
            raise ConfigError(f"--experts takes LAYER:EXPERT, such as 1:6,2:3; got {part!r}")
    return [(int(a), int(b)) for a, b in (part.split(":") for part in parts)]


def _numbers(text: str) -> list[int]:
    parts = [p for p in re.split(r"[,\s]+", text.strip()) if p]
    if wrong := [p for p in parts if not p.isdecimal()]:
        raise ConfigError(f"--layers takes numbers such as 1,2,5; got {wrong[0]!r}")
    return [int(p) for p in parts]


def _behaviour(
    named: NamedPrompts, says: Sequence[str], new_tokens: int, batch_size: int
) -> experts.Says:
    phrases = tuple(says) or named.refusals
    if not phrases:
        raise ConfigError(
            "name what an answer says when it has the behaviour: --says 'cannot say' (several may "
            "be given)"
        )
    return experts.Says(
        phrases, label=YES, otherwise=NO, new_tokens=new_tokens, batch_size=batch_size
    )
