"""Doses on one prompt as jobs: the request as settings, what it costs, what a job has left.

One that takes seconds is made while the reader waits. Any other is a job, ``lensbench doses
--out``, whose result lies in ``steering/`` below the root.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensbench.app.workflows import jobs, steering_doses, studies
from lensbench.app.workflows.answers import result_facts, saved_in
from lensbench.app.workflows.effort import Effort, effort
from lensbench.app.workflows.latent_steering import RANDOM
from lensbench.app.workflows.live import Shelf
from lensbench.app.workflows.patch_jobs import going
from lensbench.app.workflows.steer_jobs import STEERING
from lensbench.app.workflows.steering import SteerAsk
from lensbench.app.workflows.steering_beside import (
    FILE,
    LATENT,
    PROMPTS,
    STRENGTHS,
    TASK,
    WHERE,
    BesideAsk,
    held,
)
from lensbench.app.workflows.steering_doses import PromptDoses, alike, doses_of, keep
from lensbench.errors import ConfigError, UnknownNameError

_costs: "Shelf[tuple[Effort, str]]" = Shelf(64)


def cost(ask: BesideAsk) -> Effort:
    """How long the doses will take; each request is looked at once."""
    return _cost(ask)[0]


def _cost(ask: BesideAsk) -> tuple[Effort, str]:
    """Also which weights are steered.

    Every dose goes on for its tokens, is scored, and is run alone; a token that goes on is worth
    half a prompt, the others four.
    """

    def look() -> tuple[Effort, str]:
        with held(ask) as model:
            runs = (1 + RANDOM) * (len(STRENGTHS) - 1) * (4 + ask.new_tokens / 2)
            return effort(model, model.tokens(ask.prompt), runs), model.card.fingerprint

    return _costs.get(alike(ask), look)


def settings_of(root: Path, ask: BesideAsk) -> dict[str, Any]:
    """The request as the settings of a job, and of the command line."""
    told: dict[str, Any] = {"prompt": ask.prompt, "new_tokens": ask.new_tokens}
    told |= {} if ask.where == "after" else {"at": ask.where}
    told |= {"seed": ask.seed} if ask.seed else {}
    known: tuple[str, ...] = ()
    if ask.kind == LATENT:
        told |= {"dictionary": f"{ask.run}/{ask.dictionary}", "latent": ask.latent}
        known = (studies.print_of(f"{ask.run}/{ask.dictionary}/result/result.json"),)
    else:
        told |= {"model": ask.model} | _way(ask)
        known = (studies.print_of(ask.file),) if ask.file else ()
    name = f"{Path(ask.model or ask.dictionary).name}-doses-{ask.kind}"
    out = studies.place(root, STEERING, name, alike(ask), *known, _cost(ask)[1])
    return told | {"out": str(out)}


def command_of(settings: Mapping[str, Any]) -> str:
    """The same on the command line, for whoever need not keep it."""
    return jobs.command_of("doses", {k: v for k, v in settings.items() if k != "out"})


def _way(ask: BesideAsk) -> dict[str, Any]:
    """What the direction is made of."""
    if ask.task is not None:
        task = ask.task
        return {"task": task.task, "towards": task.towards, "layer": task.layer,
                "from": task.source, "method": task.method, "n": task.n}  # fmt: skip
    if ask.kind == FILE:
        return {"vector": ask.file, "layer": ask.layer}
    return {"plus": list(ask.plus), "minus": list(ask.minus), "layer": ask.layer}


def ask_of(settings: Mapping[str, Any]) -> BesideAsk:
    """The request that :func:`settings_of` made settings of, or that the command line asks for.

    Raises:
        ConfigError: directions of several kinds, or none.
    """
    given = {k: v for k, v in settings.items() if v not in (None, "", [], ())}
    ways = {PROMPTS: "plus" in given or "minus" in given, TASK: "task" in given,
            LATENT: "dictionary" in given, FILE: "vector" in given}  # fmt: skip
    kinds = [kind for kind, there in ways.items() if there]
    if len(kinds) != 1:
        raise ConfigError(
            "say what the direction is made of, in one way: --plus and --minus, a TASK, "
            "--dictionary with --latent, or --vector"
        )
    common: dict[str, Any] = {"new_tokens": given["new_tokens"], "seed": given.get("seed", 0),
                              "where": given.get("at", "after"), "kind": kinds[0]}  # fmt: skip
    prompt = given.get("prompt", "")
    if kinds[0] == LATENT:
        path = Path(given["dictionary"])
        return BesideAsk("", prompt, run=str(path.parent), dictionary=path.name,
                         latent=given.get("latent", 0), **common)  # fmt: skip
    model, layer = given.get("model", "atlas-dense"), given.get("layer", 1)
    if kinds[0] == TASK:
        usual = "subject" if given["task"] == "agreement" else "end"
        task = SteerAsk(given["task"], model, towards=given.get("towards", ""), layer=layer,
                        source=given.get("from", usual), n=given.get("n", 32), new_tokens=8,
                        method=given.get("method", "mean_difference"))  # fmt: skip
        return BesideAsk(model, prompt, task=task, **common)
    return BesideAsk(model, prompt, plus=tuple(given.get("plus", ())), file=given.get("vector", ""),
                     minus=tuple(given.get("minus", ())), layer=layer, **common)  # fmt: skip


def doses_for(root: Path, ask: BesideAsk) -> PromptDoses | None:
    """What a job has left, or doses of seconds; None where that takes a job.

    Raises:
        LensbenchError: as :func:`.steering_doses.doses_of`; DamagedDataError of what is there.
    """
    settings = settings_of(root, ask)
    saved = studies.opened(Path(settings["out"]), PromptDoses)
    if saved is not None:
        keep(ask, saved)
    elif going(root, "doses", settings) or not cost(ask).short:
        keep(ask, None)
        return None
    return doses_of(ask)


def facts(settings: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """What the command line says of the doses that are asked for; ``out`` gets the result.

    Raises:
        UnknownNameError: other tokens than all and those after the prompt.
        LensbenchError: as :func:`.steering_doses.doses_of`.
    """
    ask = ask_of(settings)
    if ask.where not in WHERE:
        raise UnknownNameError("--at", ask.where, known=tuple(WHERE))
    found = steering_doses.doses_of(ask)
    return result_facts(
        str(found.provenance.model["name"]), found, out, site=found.site, unit=found.unit
    )


def job(settings: dict[str, Any]) -> dict[str, Any]:
    """What the job does; gives the headline numbers of the result.

    Raises:
        LensbenchError: as :func:`.steering_doses.doses_of`.
    """
    out = Path(settings.pop("out"))
    found = steering_doses.doses_of(ask_of(settings))
    saved_in(found, out)
    return found.summary()
