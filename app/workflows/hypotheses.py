"""Hypotheses about a circuit, put to the test: scrubbing, components, subspaces, two readings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench import interventions, prompts
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.circuits import CircuitAsk, dictionaries_named
from lensbench.app.workflows.claims import claims_of
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import numbers, pairs_of, positions_of, subspace_of
from lensbench.errors import ConfigError
from lensbench.sites import Site


def done(ask: CircuitAsk, *, out: Path | None = None) -> dict[str, Any]:
    """Does the model put the answer above the foil? Beside shuffled answers and corrupted prompts.

    Raises:
        LensbenchError: see :func:`lensbench.prompts.score`.
    """
    with running(ask.model, ask.revision) as model:
        found = prompts.score(model, _pairs(model, ask), batch_size=ask.batch_size, seed=ask.seed)
    return result_facts(ask.model, found, out, task=found.task)


def scrubbed(
    ask: CircuitAsk, typed: Sequence[str], file: Path | None, *, draws: int, out: Path | None = None
) -> dict[str, Any]:
    """Causal scrubbing: the share of the loss that a hypothesis keeps.

    Raises:
        LensbenchError: see ``claims_of`` and :func:`lensbench.interventions.causal_scrub`.
    """
    with running(ask.model, ask.revision) as model:
        pairs = _pairs(model, ask)
        found = interventions.causal_scrub(model, pairs, claims_of(pairs, typed, file),
                                           metric=ask.metric, draws=draws,
                                           batch_size=ask.batch_size, seed=ask.seed)  # fmt: skip
    return result_facts(ask.model, found, out, task=found.task, claims=list(found.tree))


def components(
    ask: CircuitAsk, dictionary: str, *, sizes: str = "", out: Path | None = None
) -> dict[str, Any]:
    """KL to the clean run against components given clean values: latents, principal, random.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.feature_patching`.
    """
    (coder,) = dictionaries_named([dictionary])
    with running(ask.model, ask.revision) as model:
        found = interventions.feature_patching(model, _pairs(model, ask), coder,
                                               numbers(sizes, "sizes"), batch_size=ask.batch_size,
                                               seed=ask.seed)  # fmt: skip
    return result_facts(ask.model, found, out, task=found.task, undefined=found.undefined)


def subspace(
    ask: CircuitAsk, site: str, directions: str, *, position: str, head: int | None,
    direction: str, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Exchange a subspace of one place between two runs, and say whether the model uses it.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.subspace_patch`.
    """
    how: Any = direction
    where = positions_of(position)
    if isinstance(where, str) or len(where) != 1:
        raise ConfigError(f"a subspace is tested at one token; give one --position, got {position}")
    given = subspace_of(directions)
    if isinstance(given, dict):
        key = Site.parse(site)
        if key not in given:
            held = ", ".join(map(str, given))
            raise ConfigError(f"{directions} has no directions of {site}; it has those of {held}")
        given = given[key]
    with running(ask.model, ask.revision) as model:
        found = interventions.subspace_patch(
            model, _pairs(model, ask), site, given, position=where[0], head=head, direction=how,
            metric=ask.metric, batch_size=ask.batch_size, seed=ask.seed,
        )  # fmt: skip
    return result_facts(ask.model, found, out, task=found.task, verdict=found.verdict)


def readings(
    model: str, file: Path, dictionaries: Sequence[str], *, threshold: float,
    doses: Sequence[float], steps: int, random: int, shuffles: int, batch_size: int,
    revision: str | None = None, seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Circuits of both readings of ambiguous sentences, clamped, and beside a question's.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.garden_path_circuits`.
    """
    coders = dictionaries_named(dictionaries)
    with running(model, revision) as opened:
        found = interventions.garden_path_circuits(
            opened, coders, file, threshold=threshold, doses=tuple(doses), steps=steps,
            random=random, shuffles=shuffles, batch_size=batch_size, seed=seed,
        )  # fmt: skip
    return result_facts(model, found, out)


def _pairs(model: Any, ask: CircuitAsk) -> Any:
    return pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs, ask.several)
