"""Expert studies and rates as jobs: their settings, their folders, and what their processes do.

The study of the highest ranks is always a job (``lensbench experts suppress --out``); rates under
the sliders are one where a reader would wait for long (``lensbench experts rates --out``).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensbench.app.workflows import studies
from lensbench.app.workflows.expert_page import DRAWS, ExpertAsk
from lensbench.app.workflows.expert_prompts import find_prompts
from lensbench.app.workflows.expert_rates import ExpertRates, Weights, held_out, rates_of
from lensbench.app.workflows.expert_rates import rates as measured
from lensbench.app.workflows.live import hold_model
from lensbench.interventions.experts.report import ExpertReport

EXPERTS = "experts"
AT_ONCE = 1e11
"""Multiplications up to which a reader waits: some seconds on a processor."""
ANSWER = 16
"""Tokens of an answer."""


def study_settings(root: Path, ask: ExpertAsk) -> dict[str, Any]:
    """A study as the settings of its job, and of the command line.

    Raises:
        LensbenchError: no such model.
    """
    out = studies.place(root, EXPERTS, f"{Path(ask.model).name}-study", *_asked(ask))
    return {**_said(ask, ask.prompts), "top": ask.top, "draws": DRAWS, "out": str(out)}


def saved_study(root: Path, ask: ExpertAsk) -> ExpertReport | None:
    """The study that a job has left; None until it is finished.

    Raises:
        DamagedDataError: it cannot be read.
    """
    return studies.opened(Path(study_settings(root, ask)["out"]), ExpertReport)


def rates_settings(root: Path, ask: ExpertAsk, weights: Weights) -> dict[str, Any]:
    """Rates under the sliders, as the settings of their job and of the command line.

    Raises:
        LensbenchError: no such model.
    """
    out = studies.place(root, EXPERTS, f"{Path(ask.model).name}-rates", *_asked(ask), weights)
    return {**rates_said(ask, weights), "out": str(out)}


def rates_said(ask: ExpertAsk, weights: Weights) -> dict[str, Any]:
    """Rates as the settings of the command line; experts that are not moved are left out."""
    by_name = {f"{layer}:{expert}": f"{weight:g}" for layer, expert, weight in weights if weight}
    return {**_said(ask, held_out(ask)[0]), "weight": by_name}


def rates_for(root: Path, ask: ExpertAsk, weights: Weights) -> ExpertRates | None:
    """Rates that a job has left, or that take seconds; None where that takes a job.

    Raises:
        LensbenchError: see :func:`expert_rates.rates_of`.
    """
    saved = studies.opened(Path(rates_settings(root, ask, weights)["out"]), ExpertRates)
    if saved is not None or not at_once(ask):
        return saved
    return measured(ask, weights)


def at_once(ask: ExpertAsk) -> bool:
    """Whether the rates take seconds: answers, times what a token of one takes."""
    card = hold_model(ask.model).model.card
    heads = 4 * card.d_model * card.n_heads * card.d_head
    experts = 3 * card.d_model * card.d_mlp * max(1, card.top_k)
    token = card.n_layers * (heads + experts) + card.d_model * card.d_vocab
    answers = (2 + DRAWS) * len(find_prompts(held_out(ask)[0]).texts)
    return answers * ANSWER * token <= AT_ONCE


def study(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job of a study does.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.experts.expert_study`.
    """
    from lensbench.app.workflows.experts import suppress_experts

    progress("answering every prompt under every condition")
    facts = suppress_experts(settings.pop("model"), settings.pop("prompts"),
                             out=Path(settings.pop("out")), **settings)  # fmt: skip
    return {"conditions": len(facts["conditions"])}


def rates(settings: dict[str, Any], progress: Callable[..., Any]) -> dict[str, Any]:
    """What the job of rates does.

    Raises:
        LensbenchError: see :func:`expert_rates.rates_of`.
    """
    progress("answering every prompt clean, moved and with random experts")
    return dict(rates_of(settings.pop("model"), settings.pop("prompts"),
                         settings.pop("weight"), out=Path(settings.pop("out")),
                         **settings)["summary"])  # fmt: skip


def _said(ask: ExpertAsk, prompts: str) -> dict[str, Any]:
    says = {"says": [ask.says]} if ask.says else {}
    return {"model": ask.model, "prompts": prompts, **says}


def _asked(ask: ExpertAsk) -> tuple[object, ...]:
    card = hold_model(ask.model).model.card
    return ask, card.fingerprint, studies.print_of(ask.prompts)
