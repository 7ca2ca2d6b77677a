"""Dose curves as jobs: what they cost, their settings, what they have left.

One that takes seconds is made while the reader waits. Any other is a job, ``lensbench steer
--out``, whose result lies in ``steering/`` below the root.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lensbench.app.workflows import steering, steering_kept, studies
from lensbench.app.workflows.effort import Effort, effort
from lensbench.app.workflows.finding import once
from lensbench.app.workflows.live import Shelf, hold_model, running
from lensbench.app.workflows.patch_jobs import going
from lensbench.app.workflows.patching import pairs_of
from lensbench.app.workflows.steering import SteerAsk, Steering
from lensbench.app.workflows.steering_kept import keep, kept

STEERING = "steering"
FLAGS = {"source": "from", "shown": "texts"}
"""Settings that the command line calls otherwise."""
_costs: "Shelf[Effort]" = Shelf(64)


def cost(ask: SteerAsk) -> Effort:
    """How long the doses will take; each request is looked at once."""
    return _costs.get(ask, lambda: _cost(ask))


def _cost(ask: SteerAsk) -> Effort:
    """Every dose of every prompt is run, goes on for its tokens, and is scored.

    Half of the pairs at most are steered; a token that goes on is worth a fifth of a prompt.
    """
    with running(ask.model, ask.revision) as model:
        pairs = pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs)
        doses = (1 + ask.random + ask.shuffled) * sum(1 for s in ask.strengths if s)
        return effort(model, pairs.clean, doses * len(pairs) / 2 * (2 + ask.new_tokens / 5))


def settings_of(root: Path, ask: SteerAsk) -> dict[str, Any]:
    """The request as the settings of a job, and of the command line."""
    usual = {f.name: f.default for f in fields(SteerAsk)}
    told = {FLAGS.get(k, k): v for k, v in vars(ask).items() if k in _SAID or v != usual[k]}
    if "strengths" in told:
        told["strengths"] = ",".join(repr(s) for s in ask.strengths)
    model = hold_model(ask.model, ask.revision).model.card.fingerprint
    name = f"{Path(ask.model).name}-{ask.task}-{ask.site}-{ask.layer}"
    return told | {"out": str(studies.place(root, STEERING, name, ask, model))}


def doses_for(root: Path, ask: SteerAsk) -> Steering | None:
    """What a job has left, or doses of seconds; None where that takes a job.

    Raises:
        LensbenchError: as :func:`.steering.steer`; DamagedDataError of what a job has left.
    """
    settings = settings_of(root, ask)
    out = Path(settings["out"])
    if is_kept(settings):
        keep(
            ask,
            once(
                out / steering_kept.TEXTS, "steering", lambda file: steering_kept.load(file.parent)
            ),
        )
    elif going(root, "steer", settings) or not cost(ask).short:
        keep(ask, None)
        return None
    return kept(ask)


def is_kept(settings: Mapping[str, Any]) -> bool:
    """Whether a job has left what these settings ask for."""
    return (Path(settings["out"]) / steering_kept.TEXTS).is_file()


def doses_job(settings: dict[str, Any]) -> dict[str, Any]:
    """What the job does; gives the headline numbers of the result.

    Raises:
        LensbenchError: as :func:`.steering.steer`.
    """
    out = Path(settings.pop("out"))
    names = {flag: name for name, flag in FLAGS.items()}
    given = {names.get(k, k): v for k, v in settings.items()}
    if "strengths" in given:
        given["strengths"] = tuple(map(float, given["strengths"].split(",")))
    found = steering.steer(SteerAsk(**given))
    steering_kept.save(found, out)
    return found.result.summary()


_SAID = ("task", "model", "layer", "source", "method", "n", "new_tokens")
