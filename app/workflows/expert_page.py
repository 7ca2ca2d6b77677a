"""What the page Experts shows: a ranking, and the study of the highest ranks, kept by request."""

import shlex
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensbench.app.workflows.expert_prompts import NamedPrompts, find_prompts
from lensbench.app.workflows.live import running
from lensbench.errors import ConfigError
from lensbench.interventions import experts
from lensbench.interventions.experts.ranking import ExpertRanking
from lensbench.interventions.experts.report import ExpertReport
from lensbench.interventions.experts.rows import rows_of
from lensbench.plan import Plan
from lensbench.words import spelled

if TYPE_CHECKING:
    import pandas as pd

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
    "kl": "KL, nats",
    "neutral_changed": "Other answers changed",
}
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


def studied(ask: ExpertAsk) -> ExpertReport:
    """The highest ranks of one half, suppressed and forced on the other.

    Raises:
        LensbenchError: as :func:`ranked`.
    """
    return _studied(ask, _written(ask.prompts))


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


@lru_cache(maxsize=8)
def _studied(ask: ExpertAsk, written: tuple[int, int] | None) -> ExpertReport:
    del written  # part of the key only
    named = find_prompts(ask.prompts)
    with running(ask.model) as model:
        return experts.expert_study(
            model, named.texts, says_of(named, ask.says), target=YES, top=ask.top,
            groups=named.groups,
        )  # fmt: skip


def top(ranking: ExpertRanking, n: int = 10) -> "pd.DataFrame":
    """The highest ranks of the target class."""
    frame = ranking.to_frame()
    chosen = frame.take(np.flatnonzero(frame["class"] == ranking.target))
    return chosen.filter([c for c in SHOWN if c in list(chosen.columns)]).head(n)


def first_prompt(ask: ExpertAsk) -> str:
    """A prompt to begin with."""
    return find_prompts(ask.prompts).texts[0]


def likely(ranking: ExpertRanking, n: int) -> list[tuple[int, int]]:
    """Layer and number of the highest ranks."""
    return [(int(a), int(b)) for a, b in ranking.top(n)]


def control_told(ranking: ExpertRanking) -> str:
    """The largest differential under permuted labels, in words."""
    return "; ".join(f"{spelled(k)} {v:.3g}" for k, v in ranking.controls.values.items())


def n_of(ranking: ExpertRanking) -> int:
    """Prompts of all classes."""
    return int(sum(ranking.n.tolist()))


def rank_code(ask: ExpertAsk) -> str:
    """The ranking in a notebook."""
    return (
        "from lensbench.app.workflows.expert_page import ExpertAsk, ranked\n\n"
        f"ranked({ask!r}).plot()\n"
    )


def command_of(ask: ExpertAsk, verb: str) -> str:
    """The same on the command line."""
    says = ["--says", ask.says] if ask.says else []
    top = str(ask.top if verb == "suppress" else 10)
    return shlex.join(["lensbench", "experts", verb, "--model", ask.model, "--prompts", ask.prompts,
                       *says, "--top", top])  # fmt: skip


def python_of(ask: ExpertAsk, call: str = "ranked") -> str:
    """The code that makes the ranking (or, with ``studied``, the study) in a notebook."""
    given = {k: v for k, v in vars(ask).items() if v != getattr(ExpertAsk, k, None)}
    return (
        f"from lensbench.app.workflows.expert_page import ExpertAsk, {call}\n\n"
        f"ask = ExpertAsk({', '.join(f'{k}={v!r}' for k, v in given.items())})\n"
        f"{call}(ask).plot()\n"
    )


def says_of(named: NamedPrompts, says: str) -> experts.Says:
    """The behaviour that a phrase names, or that the desk knows.

    Raises:
        ConfigError: neither.
    """
    phrases = (says,) if says else named.refusals
    if not phrases:
        raise ConfigError(
            "name what an answer says when it has the behaviour, such as 'cannot say'; only the "
            "desk knows its own"
        )
    return experts.Says(phrases, label=YES, otherwise=NO)
