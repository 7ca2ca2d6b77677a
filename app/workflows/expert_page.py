"""What the page Experts shows: a ranking, and the study of the highest ranks, kept by request."""

import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensbench.app.workflows.expert_prompts import NamedPrompts, find_prompts
from lensbench.app.workflows.live import running
from lensbench.app.workflows.studies import load_code
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.interventions.experts.ranking import ExpertRanking
from lensbench.interventions.experts.report import ExpertReport
from lensbench.interventions.experts.rows import rows_of
from lensbench.plan import Plan
from lensbench.words import spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import plotly.graph_objects as go

YES, NO = "yes", "no"
DESK_SAYS = {
    "": "Refuses, in either language",
    "cannot say": "Refuses in English (cannot say)",
    "sans réponse": "Refuses in French (sans réponse)",
}
"""Behaviours of the desk world, by what an answer says; the first is the desk's own."""
HEADINGS = {
    "rank": "Rank",
    "layer": "Layer",
    "expert": "Expert",
    "differential": "Difference",
    "mean": "Gate weight",
    "p": "p (permuted labels)",
    "n": "Prompts",
}
STUDY_HEADINGS = {
    "condition": "Experts are",
    "rate": "Rate",
    "low": "From (95 %)",
    "high": "To (95 %)",
    "n": "Prompts",
    "no_longer": "No longer",
    "newly": "Newly",
    "kl": "KL(clean ‖ steered) [nats]",
    "neutral_changed": "Other answers changed",
}
DRAWS = 20
"""Sets of random experts beside the study's: 19 are the fewest that give a p of .05."""
ALPHA = 0.05
"""p up to which an expert is said to stand out."""
LOOKED = 64
"""Prompts that are answered to find one to begin with."""
SHOWN = ("rank", "layer", "expert", "differential", "mean", "p", "n")


@dataclass(frozen=True)
class ExpertAsk:
    """A model, prompts, what an answer says that has the behaviour, and how many to take out."""

    model: str
    prompts: str = "desk:120"
    says: str = ""
    top: int = 3


def ranked(ask: ExpertAsk) -> ExpertRanking:
    """Experts by how differently the prompts with the behaviour use them.

    Raises:
        LensbenchError: a dense model, prompts that are not there, no phrase and no labels.
    """
    return _ranked(ask, _written(ask.prompts))


def _written(prompts: str) -> tuple[int, int] | None:
    """When a file of prompts was last written and how long it is: an edited file is another one."""
    path = Path(prompts)
    if not path.is_file():
        return None
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=8)
def _ranked(ask: ExpertAsk, written: tuple[int, int] | None) -> ExpertRanking:
    del written  # part of the key only
    named = find_prompts(ask.prompts)
    with running(ask.model) as model:
        maps = experts.routing(model, named.texts)
        labels = named.labels
        if labels is None or ask.says:
            labels = says_of(named, ask.says)(model, rows_of(model, named.texts), Plan())
        return experts.ftri(maps, labels, target=YES if YES in labels else None)


def study_figure(report: ExpertReport) -> "go.Figure":
    """The rates of a study, under a reader's title."""
    figure = report.plot()
    figure.update_layout(title_text=f"Rate of the behaviour, {len(report.experts)} experts moved")
    return figure.update_yaxes(title_text="share of test prompts", range=[0, 1.02])


def verdicts(report: ExpertReport) -> dict[str, str]:
    """Suppressed and forced: whether the rate moves farther than with random experts."""
    sizes = {"suppressed": len(report.experts), "forced": len(report.forced)}
    return {how: report.standing(how).told(controls_named(n)) for how, n in sizes.items()}


def controls_named(size: int) -> str:
    """What random experts are called beside ``size`` chosen ones."""
    return "random experts" if size == 1 else f"random sets of {size} experts"


def top(ranking: ExpertRanking, n: int = 10) -> "pd.DataFrame":
    """The highest ranks of the target class."""
    frame = ranking.to_frame()
    chosen = frame.take(np.flatnonzero(frame["class"] == ranking.target))
    return chosen.filter([c for c in SHOWN if c in list(chosen.columns)]).head(n)


def first_prompt(ask: ExpertAsk) -> str:
    """The first prompt whose answer has the behaviour; the very first where none of them has."""
    return _first_prompt(ask, _written(ask.prompts))


@lru_cache(maxsize=16)
def _first_prompt(ask: ExpertAsk, written: tuple[int, int] | None) -> str:
    del written  # part of the key only
    named = find_prompts(ask.prompts)
    if not (ask.says or named.refusals):
        return named.texts[0]
    texts = named.texts[:LOOKED]
    with running(ask.model) as model:
        found = says_of(named, ask.says)(model, rows_of(model, texts), Plan())
    return texts[found.index(YES)] if YES in found else texts[0]


def likely(ranking: ExpertRanking, n: int) -> list[tuple[int, int]]:
    """Layer and number of the highest ranks."""
    return [(int(a), int(b)) for a, b in ranking.top(n)]


def control_told(ranking: ExpertRanking) -> str:
    """The largest differential under permuted labels, in words."""
    return "; ".join(f"{spelled(k)} {v:.3g}" for k, v in ranking.controls.values.items())


def n_of(ranking: ExpertRanking) -> str:
    """Prompts, and how many of each class: the target's first."""
    of = dict(zip(ranking.classes, ranking.n.tolist(), strict=True))
    first = sorted(of.items(), key=lambda one: one[0] != ranking.target)
    each = ", ".join(f"{n:,} {name}" for name, n in first)
    return f"{sum(of.values()):,} prompts: {each}"


def against_chance(ranking: ExpertRanking, shown: "Sequence[str] | None" = None) -> str:
    """Which experts stand out from permuted labels, in words; ``shown``: of these ones only.

    The p of an expert is that of the largest difference of the whole map.
    """
    p = {f"{ranking.layers[i]}:{e}": float(v) for (i, e), v in
         np.ndenumerate(ranking.p[ranking.classes.index(ranking.target)])}  # fmt: skip
    names = [name for name in (p if shown is None else shown) if name in p]
    if not names:
        return ""
    best = f"smallest p {min(p[name] for name in names):.2g}, n = {n_of(ranking)}"
    if not (clear := [name for name in names if p[name] <= ALPHA]):
        told = "No expert" if shown is None else "None of these experts"
        return f"{told} stands out from permuted labels ({best}): their order may be chance."
    which = f": {', '.join(clear)}" if shown else ""
    return (f"{len(clear)} of {len(names)} stand out from permuted labels at p ≤ {ALPHA:g}{which} "
            f"({best}).")  # fmt: skip


def colours_told(ranking: ExpertRanking) -> str:
    """What the colours of the map end at, and why."""
    reach = ranking.reach()
    if ranking.has_bound:
        return f"Colours run from -{reach:g} to {reach:g}, the ends of a difference of shares."
    return (f"Colours run from -{reach:.3g} to {reach:.3g}, the largest difference of this map: a "
            "sum over a prompt's tokens has no end of its own, so compare maps by their numbers."
            )  # fmt: skip


def command_of(ask: ExpertAsk, verb: str) -> str:
    """The same on the command line."""
    says = ["--says", ask.says] if ask.says else []
    top = str(ask.top if verb == "suppress" else 10)
    return shlex.join(["lensbench", "experts", verb, "--model", ask.model, "--prompts", ask.prompts,
                       *says, "--top", top])  # fmt: skip


def study_code(folder: Path) -> str:
    """The figure of a study in a notebook."""
    return load_code(folder, "found.plot()")


def says_of(named: NamedPrompts, *says: str) -> experts.Says:
    """The behaviour that phrases name, or that the desk knows.

    Raises:
        ConfigError: neither.
    """
    phrases = tuple(filter(None, says)) or named.refusals
    if not phrases:
        raise ConfigError(
            "name what an answer says when it has the behaviour, such as 'cannot say'; only the "
            "desk knows its own"
        )
    return experts.Says(phrases, label=YES, otherwise=NO)
