"""What could be left out (layers, tokens, neurons, keys), by names: read off states, or tried.

A study of stored states takes a store of the model's own text, or prompts that the model continues
into one (kept where a folder is named, else thrown away). None of this makes the model faster by
itself: ``accelerating`` does, and times it.
"""

import json
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.app.workflows.accelerating import read_prompts
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.live import hold_store, running
from lensbench.app.workflows.patching import numbers
from lensbench.errors import ConfigError, MissingDataError, UnknownNameError
from lensbench.interventions import acceleration
from lensbench.interventions.acceleration.study.lens_table import CONFIDENCES


@dataclass(frozen=True)
class SavingAsk:
    """A model and its text: a store, or prompts that are continued into one."""

    model: str
    revision: str | None = None
    store: str = ""
    prompts: str = ""
    new_tokens: int = 48
    keep: str = ""
    out: Path | None = None
    seed: int = 0


STUDIES: dict[str, Callable[..., Any]] = {
    "similarity": acceleration.similarity_table,
    "sparsity": acceleration.activation_sparsity,
    "depth": acceleration.depth_router,
    "lengths": acceleration.draft_length,
    "acceptance": lambda *a, **k: acceleration.acceptance_head(*a, **k)[1],
    "transfer": acceleration.hidden_transfer,
}
"""Studies of a store by the name of their command."""
TEXTS: dict[str, Callable[..., Any]] = {
    "stages": acceleration.inference_stages,
    "robustness": acceleration.robustness,
    "keys": acceleration.heavy_hitters,
}
"""Studies of texts alone."""


def of_store(
    name: str, ask: SavingAsk, *args: Any, by: str = "", top: int | None = None, **settings: Any
) -> dict[str, Any]:
    """One of :data:`STUDIES`.

    Raises:
        LensbenchError: see the study.
    """
    with (
        running(ask.model, ask.revision) as model,
        held_store(ask, model, _sites(name, model)) as store,
    ):
        found = STUDIES[name](store, model, *args, **settings, seed=ask.seed)
    return result_facts(ask.model, found, ask.out, by=by, top=top)


def of_text(
    name: str, ask: SavingAsk, *args: Any, by: str = "", top: int | None = None, **settings: Any
) -> dict[str, Any]:
    """One of :data:`TEXTS`.

    Raises:
        LensbenchError: see the study.
    """
    text = read_prompts(ask.prompts)
    with running(ask.model, ask.revision) as model:
        found = TEXTS[name](model, text, *args, **settings)
    return result_facts(ask.model, found, ask.out, by=by, top=top)


def routes(
    ask: SavingAsk, *, skips: Sequence[str], swaps: Sequence[int], last: Sequence[int]
) -> dict[str, Any]:
    """What each route past layers does to predictions, beside the full model.

    Raises:
        ConfigError: no route, or one that the model cannot take.
    """
    text = read_prompts(ask.prompts)
    with running(ask.model, ask.revision) as model:
        n = model.n_layers
        ways: dict[str, Any] = {f"without {s}": acceleration.without(n, numbers(s, "skip") or [])
                                for s in skips}  # fmt: skip
        ways |= {f"{i} and {i + 1} swapped": acceleration.swapped(n, i) for i in swaps}
        ways |= {f"without the last {k}": acceleration.last_layers_off(n, k) for k in last}
        if not ways:
            raise ConfigError("say which way: --skip 2,3, --swap 2 or --last 2 (all repeatable)")
        found = acceleration.route_damage(model, text, ways)
    return result_facts(ask.model, found, ask.out)


def exits(ask: SavingAsk, *, measures: Sequence[str], bins: int) -> dict[str, Any]:
    """Quality and layers at every threshold of confidence, and whether confidence can be trusted.

    Raises:
        LensbenchError: see ``lens_table``, ``threshold_sweep`` and ``exit_calibration``.
    """
    given = [list(measures)] if measures else []
    with running(ask.model, ask.revision) as model, held_store(ask, model) as store:
        table = acceleration.lens_table(store, model)
        sweep = acceleration.threshold_sweep(table, *given)
        calibration = acceleration.exit_calibration(table, *(measures[:1]), bins=bins)
    facts = result_facts(ask.model, sweep, ask.out)
    folder = None if ask.out is None else ask.out / "calibration"
    return {**facts, "calibration": result_facts(ask.model, calibration, folder)}


def skips(
    ask: SavingAsk, *, trials: int, objective: str, threshold: float, most: int, top: int
) -> dict[str, Any]:
    """Search the sublayers that a draft should leave out.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.acceleration.search_skips`.
    """
    how: Any = objective
    text = read_prompts(ask.prompts)
    with running(ask.model, ask.revision) as model:
        found = acceleration.search_skips(
            model, [model.tokens(one) for one in text], max_new_tokens=ask.new_tokens,
            trials=trials, objective=how, threshold=threshold, most=most, seed=ask.seed,
        )  # fmt: skip
    left_out = [f"{part} {layer}" for part, layer in found.skips]
    return result_facts(ask.model, found, ask.out, top=top, by="score", left_out=left_out)


def kangaroo(
    ask: SavingAsk, exit_layer: int, settings: Mapping[str, Any],
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the adapter of an exit layer, and measure it on the sequences held out.

    The adapter lies in ``out`` and its report in ``out/report``; a run that was stopped goes on.

    Raises:
        LensbenchError: see ``train_kangaroo`` and ``kangaroo_report``.
    """
    config = {"seed": ask.seed, **settings}
    checked = acceleration.KangarooConfig.parse(config)

    def tell(step: int, loss: float) -> None:
        if progress is not None:
            progress(step=step, steps=checked.steps, loss=loss)

    with running(ask.model, ask.revision) as model, held_store(ask, model) as store:
        adapter = acceleration.train_kangaroo(store, model, exit_layer, checked, ask.out,
                                              progress=tell)  # fmt: skip
        found = acceleration.kangaroo_report(adapter, store, model)
    folder = None if ask.out is None else ask.out / "report"
    facts = result_facts(ask.model, found, folder, exit_layer=exit_layer)
    return {**facts, "adapter": str(ask.out)} if ask.out is not None else facts


def samples(
    ask: SavingAsk, site: str, rewards: Path, *, budgets: Sequence[int], test: float
) -> dict[str, Any]:
    """Give prompts that need them more samples: a probe on the last state of each prompt.

    Raises:
        MissingDataError: no such file.
        LensbenchError: see ``last_prompt_states`` and ``adaptive_compute``.
    """
    given = _matrix(rewards)
    with running(ask.model, ask.revision) as model, held_store(ask, model) as store:
        states = acceleration.last_prompt_states(store, site)
        found = acceleration.adaptive_compute(states, given, tuple(budgets), test=test,
                                              seed=ask.seed)  # fmt: skip
    return result_facts(ask.model, found, ask.out, site=site)


@contextmanager
def held_store(ask: SavingAsk, model: Any, sites: Sequence[str] | None = None) -> Generator[Any]:
    """The store that was named, or one of the prompts' continuations."""
    if bool(ask.store) == bool(ask.prompts):
        what = "both" if ask.store else "neither"
        raise ConfigError(
            f"give one of --store (a captured store) and --prompts (a file), got {what}"
        )
    if ask.keep and ask.store:
        raise ConfigError("--keep names the store that --prompts captures; leave it out")
    if ask.store:
        held = hold_store(ask.store)
        held.check_model(model.card)
        yield held
        return
    text = read_prompts(ask.prompts)
    with tempfile.TemporaryDirectory(prefix="lensbench-own-") as folder:
        where = ask.keep or str(Path(folder) / "own")
        yield acceleration.capture_own(model, text, where, ask.new_tokens, sites=sites)


def _sites(name: str, model: Any) -> list[str] | None:
    """What a study needs beside the stream; None: the stream is enough."""
    if name != "sparsity":
        return None
    known = {str(site) for site in model.sites()}
    stream = ["blocks.0.resid_pre"]
    parts = ("mlp.gate", "mlp.up", "resid_mid", "resid_post")
    stream += [f"blocks.{n}.{part}" for n in range(model.n_layers) for part in parts]
    return [site for site in stream if site in known]


def _matrix(file: Path) -> np.ndarray:
    """Rewards: a JSON list with a list of 0 and 1 for each prompt."""
    if not file.is_file():
        raise MissingDataError(f"--rewards: there is no file {file}")
    try:
        found = np.asarray(json.loads(file.read_text(encoding="utf-8")), dtype=float)
    except ValueError as error:
        raise ConfigError(f"{file} must hold equally long lists of 0 and 1: {error}") from error
    if found.ndim != 2:
        raise ConfigError(f"{file} must hold a list of lists, one for each prompt")
    return found


def known_measure(name: str) -> str:
    """A measure of confidence.

    Raises:
        UnknownNameError: no such measure.
    """
    return _known("confidence", name, CONFIDENCES)


def known_keys(name: str) -> Any:
    """What tokens that pass a block by leave in it: ``kept`` or ``all``.

    Raises:
        UnknownNameError: another word.
    """
    return _known("choice of keys", name, ("kept", "all"))


def _known(kind: str, name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise UnknownNameError(kind, name, known=known)
    return name
