"""Sweeps and verified attributions as jobs: what they cost, their settings, what they have left.

One that takes seconds is done while the reader waits. Any other is a job, ``lensbench patch --out``
or ``lensbench attribute --verify --out``, whose result lies in ``patching/`` below the root.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from lensbench import io
from lensbench.app.workflows import patch_cell, studies
from lensbench.app.workflows.answers import saved_in
from lensbench.app.workflows.attributing import AttributeAsk, attribute_task
from lensbench.app.workflows.effort import Effort, effort
from lensbench.app.workflows.live import Shelf, hold_model, running
from lensbench.app.workflows.patch_cell import OTHERS, STEPS, VERIFIED, on_new_pairs, place_named
from lensbench.app.workflows.patch_pairs import pairs_file
from lensbench.app.workflows.patching import PatchAsk, keep, kept, pairs_for, patch
from lensbench.interventions.attribution.check import AttributionCheck
from lensbench.interventions.patching.check import PlaceCheck
from lensbench.interventions.patching.result import PatchingResult

PATCHING = "patching"
TOP, RANDOM = 10, 20
"""Places that verify an attribution: the largest estimates, and others drawn at random."""
POINTS = 30
"""Points of an integral."""
_costs: "Shelf[tuple[int, int, int, float]]" = Shelf(64)


def cost(ask: PatchAsk) -> tuple[int, int, Effort]:
    """Places and pairs of a sweep, and how long it will take; each request is looked at once."""
    n, pairs, runs, each = _costs.get(ask, lambda: _cost(ask))
    return n, pairs, Effort(runs, each)


def _cost(ask: PatchAsk) -> tuple[int, int, int, float]:
    n, n_pairs, runs = patch_cell.forecast(ask)
    with running(ask.model, ask.revision) as model:
        pairs = pairs_for(model, ask)
        found = effort(model, pairs.clean, runs * (2 if pairs.summed else 1))
    return n, n_pairs, found.passes, found.each


def check_cost(ask: PatchAsk, method: str) -> Effort:
    """How long an attribution and its patches will take.

    For each pair: the patches, both runs and the gradients of two questions; an integral has them
    at each of its points, ``ig`` once more for every site, and AtP* for every layer.
    """
    each = cost(ask)[2].each
    layers = hold_model(ask.model, ask.revision).model.card.n_layers
    more = {"ig": 3 * POINTS * layers, "ig_inputs": 4 * POINTS, "atp_star": 4 * layers}
    pairs = cost(ask)[1]
    return Effort(pairs * (TOP + RANDOM + 6 + more.get(method, 0)), each)


def sweep_settings(root: Path, ask: PatchAsk) -> dict[str, Any]:
    """A sweep as the settings of its job, and of the command line."""
    usual = {f.name: f.default for f in fields(PatchAsk)}
    told = {k: v for k, v in vars(ask).items() if k in _SAID or v != usual[k]}
    told.pop("own", None)
    out = studies.place(root, PATCHING, _name(ask, ask.how), ask, _model(ask))
    return {**told, "sites": list(ask.sites), **_pairs(root, ask), "out": str(out)}


def swept(root: Path, ask: PatchAsk) -> PatchingResult | None:
    """What a job has left, or a sweep of seconds; None where that takes a job.

    Raises:
        LensbenchError: as :func:`.patching.patch`; DamagedDataError of what a job has left.
    """
    settings = sweep_settings(root, ask)
    saved = studies.opened(Path(settings["out"]), PatchingResult)
    if saved is not None:
        keep(ask, saved)
    elif going(root, "patch", settings) or not cost(ask)[2].short:
        keep(ask, None)
        return None
    return kept(ask)


def check_settings(root: Path, ask: PatchAsk, method: str) -> dict[str, Any]:
    """An attribution of the same places, with the patches that verify it, as :func:`.sweep`."""
    told = {k: v for k, v in sweep_settings(root, ask).items() if k in _OF_BOTH}
    out = studies.place(root, PATCHING, _name(ask, method), ask, method, _model(ask))
    return {**told, "sites": list(ask.sites), "method": method, "direction": ask.how,
            "verify": True, "out": str(out)}  # fmt: skip


def checked(root: Path, ask: PatchAsk, method: str) -> AttributionCheck | None:
    """Estimates beside patches: what a job has left, or made now; None where that takes a job.

    Raises:
        LensbenchError: as :func:`.patch_cell.checked`; DamagedDataError of what a job has left.
    """
    patch_cell.check_how(ask)
    settings = check_settings(root, ask, method)
    saved = studies.opened(Path(settings["out"]) / VERIFIED, AttributionCheck)
    if saved is not None:
        return saved
    if going(root, "attribute", settings) or not check_cost(ask, method).short:
        return None
    return patch_cell.checked(ask, method)


def going(root: Path, kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether the job of a study goes on."""
    job = studies.job_of(root, kind, settings)
    return job is not None and job.live


def place_settings(root: Path, ask: PatchAsk, index: int) -> dict[str, Any]:
    """A place of a sweep on held-out pairs, as :func:`sweep_settings`; the sweep is in its name."""
    told = sweep_settings(root, ask)
    name = patch_cell.name_of(ask, index)
    out = studies.place(root, PATCHING, f"{_name(ask, ask.how)}-held-out", told["out"], name)
    return {**told, "verify": True, "place": name, "out": str(out)}


def place_cost(ask: PatchAsk) -> Effort:
    """How long a place on held-out pairs will take: it, random steps there, and other places."""
    _, pairs, whole = cost(ask)
    return Effort(pairs * (1 + STEPS + OTHERS), whole.each)


def said_cost(ask: PatchAsk) -> Effort:
    """How long it takes to hear what the model says of every pair, with a patch and without."""
    _, pairs, whole = cost(ask)
    return Effort(3 * pairs, whole.each)


def place_check(settings: Mapping[str, Any]) -> PlaceCheck | None:
    """A place on held-out pairs as a job has left it; None until then.

    Raises:
        DamagedDataError: it cannot be read.
    """
    return studies.opened(Path(settings["out"]) / VERIFIED, PlaceCheck)


def is_kept(settings: Mapping[str, Any]) -> bool:
    """Whether a job has left what these settings ask for."""
    return (Path(settings["out"]) / studies.FILE).is_file()


def keep_pairs(settings: Mapping[str, Any], ask: PatchAsk) -> None:
    """Write typed pairs where the command of a job reads them; a task has none to write."""
    if ask.own and not Path(settings["pairs"]).is_file():
        io.write_text(Path(settings["pairs"]), pairs_file(ask.model, ask.own))


def sweep_job(settings: dict[str, Any]) -> dict[str, Any]:
    """What the job of a sweep does; gives its headline numbers.

    Raises:
        LensbenchError: as :func:`.patching.patch`.
    """
    out = Path(settings.pop("out"))
    result = patch(PatchAsk(**_arguments(settings)))
    saved_in(result, out)
    return result.summary()


def place_job(settings: dict[str, Any]) -> dict[str, Any]:
    """What the job of a place does: the sweep, where it is not kept, and the place on other pairs.

    Raises:
        LensbenchError: as :func:`.patch_cell.on_new_pairs`.
    """
    out, name = Path(settings.pop("out")), settings.pop("place")
    ask = PatchAsk(**_arguments({k: v for k, v in settings.items() if k != "verify"}))
    kept_in = Path(sweep_settings(out.parents[1], ask)["out"])
    result = studies.opened(kept_in, PatchingResult) or patch(ask)
    found = on_new_pairs(ask, result, place_named(result, name))
    saved_in(result, out)
    saved_in(found, out / VERIFIED)
    return found.summary()


def check_job(settings: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """What the job of an attribution does; gives the headline numbers of what verified it.

    Raises:
        LensbenchError: as :func:`.attributing.attribute_task`.
    """
    out = Path(settings.pop("out"))
    say("estimating, then patching")
    found = attribute_task(AttributeAsk(**_arguments(settings)))
    assert found.check is not None  # asked for
    saved_in(found.result, out)
    saved_in(found.check, out / VERIFIED)
    return found.check.summary()


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": "recall", **settings, "sites": tuple(settings["sites"])}


def _name(ask: PatchAsk, how: str) -> str:
    what = "own" if ask.own else ask.task
    return f"{Path(ask.model).name}-{what}-{how}-{ask.sites[0]}"


def _model(ask: PatchAsk) -> str:
    """The weights that are meant, so that another model of the name has studies of its own."""
    return hold_model(ask.model, ask.revision).model.card.fingerprint


def _pairs(root: Path, ask: PatchAsk) -> dict[str, str]:
    """Where typed pairs are kept for the command."""
    if not ask.own:
        return {}
    print_ = sha256(f"{ask.model} {ask.own}".encode()).hexdigest()[:8]
    return {"pairs": str(root / PATCHING / f"pairs-{print_}.json")}


_SAID = ("task", "model", "sites", "how", "n")
_OF_BOTH = ("task", "model", "revision", "metric", "positions", "n", "pairs", "batch_size", "seed")
