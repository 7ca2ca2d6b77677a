"""Circuits by names: along which paths, which edges, which latents, which subspace of a place.

Each function is one question of the command line: it opens the model under its lock, makes the
pairs, calls the method, and gives its result as facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench import interventions
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.dictionaries import open_dictionary
from lensbench.app.workflows.live import running
from lensbench.app.workflows.patching import each_of, numbers, pairs_of, positions_of
from lensbench.errors import ConfigError
from lensbench.results import Result


@dataclass(frozen=True)
class CircuitAsk:
    """A task on a model, and how it is measured."""

    task: str
    model: str = "atlas-dense"
    revision: str | None = None
    metric: str = "logit_diff"
    pairs: str = ""
    """A JSON file of pairs instead of a task of ours."""
    several: str = ""
    n: int = 32
    batch_size: int = 16
    seed: int = 0


def paths(
    ask: CircuitAsk,
    senders: Sequence[str],
    receivers: Sequence[str],
    *,
    direction: str,
    layers: str = "",
    positions: str = "",
    heads: str = "each",
    through_mlps: bool = False,
    out: Path | None = None,
    top: int = 10,
) -> dict[str, Any]:
    """Path patching: what every sender does along its direct paths to the receivers.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.path_patch`.
    """
    how: Any = direction
    with running(ask.model, ask.revision) as model:
        found = interventions.path_patch(
            model, _pairs(model, ask), list(senders), list(receivers), direction=how,
            metric=ask.metric, layers=numbers(layers, "layers"), heads=each_of(heads, "heads"),
            positions=positions_of(positions) if positions else "together",
            freeze_mlps=not through_mlps, batch_size=ask.batch_size, seed=ask.seed,
        )  # fmt: skip
    facts = result_facts(ask.model, found, out, by="effect", task=found.task)
    rows = [row for row in facts["rows"] if row["site"]]  # without the runs as they are
    return {**facts, "rows": rows[:top], "of": len(rows)}


def pruned(
    ask: CircuitAsk, threshold: float, *, random: int, out: Path | None = None, top: int = 20
) -> dict[str, Any]:
    """ACDC: the edges that a task cannot do without.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.acdc`.
    """
    with running(ask.model, ask.revision) as model:
        found = interventions.acdc(model, _pairs(model, ask), threshold, metric=ask.metric,
                                   random=random, batch_size=ask.batch_size,
                                   seed=ask.seed)  # fmt: skip
    facts = result_facts(ask.model, found, out, by="cost", task=found.task, kept=list(found.names))
    rows = [row for row in facts["rows"] if row["kept"]]
    return {**facts, "rows": rows[:top], "of": len(rows)}


def faithful(
    ask: CircuitAsk,
    *,
    method: str,
    sizes: str = "",
    how: str = "greedy",
    random: int = 5,
    out: Path | None = None,
) -> dict[str, Any]:
    """Circuits of the largest edges, run: how much of the task each size does.

    Raises:
        LensbenchError: see ``attribute_edges`` and ``faithfulness``.
    """
    by: Any = method
    chosen: Any = how
    with running(ask.model, ask.revision) as model:
        pairs = _pairs(model, ask)
        edges = interventions.attribute_edges(model, pairs, method=by, metric=ask.metric,
                                              batch_size=ask.batch_size, seed=ask.seed)  # fmt: skip
        found = interventions.faithfulness(model, pairs, edges, numbers(sizes, "sizes"), how=chosen,
                                           random=random, batch_size=ask.batch_size,
                                           seed=ask.seed)  # fmt: skip
    return result_facts(ask.model, found, out, task=found.task, method=method)


def latents(
    ask: CircuitAsk,
    dictionaries: Sequence[str],
    *,
    method: str,
    base: str,
    sizes: str = "",
    random: int = 5,
    out: Path | None = None,
    top: int = 10,
) -> dict[str, Any]:
    """Effects of the latents of dictionaries, and how much of the task circuits of them do.

    Raises:
        LensbenchError: see ``latent_effects`` and ``circuit_curve``.
    """
    by: Any = method
    start: Any = base
    coders = dictionaries_named(dictionaries)
    with running(ask.model, ask.revision) as model:
        pairs = _pairs(model, ask)
        effects = interventions.latent_effects(model, pairs, coders, base=start, method=by,
                                               metric=ask.metric, batch_size=ask.batch_size,
                                               seed=ask.seed)  # fmt: skip
        curve = interventions.circuit_curve(model, pairs, effects, coders,
                                            numbers(sizes, "sizes"), random=random,
                                            batch_size=ask.batch_size, seed=ask.seed)  # fmt: skip
    facts = result_facts(ask.model, effects, out, top=top, by="effect", task=effects.task)
    for row in facts["rows"]:
        row["latent"] = "error" if row["latent"] < 0 else int(row["latent"])
    more = result_facts(ask.model, curve, None if out is None else out / "circuits")
    return {**facts, "circuits": more}


def graph(
    model: str,
    prompt: str,
    dictionaries: Sequence[str],
    *,
    revision: str | None = None,
    verify: bool = False,
    most: int = 2000,
    export: Path | None = None,
    out: Path | None = None,
    top: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """The circuit of latents behind the next token of one prompt, most influential edges first.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.attribution_graph`.
    """
    coders = dictionaries_named(dictionaries)
    with running(model, revision) as opened:
        found = interventions.attribution_graph(opened, _said(prompt), coders, max_latents=most)
        done = found.with_codecs(opened, coders).verify(opened, seed=seed) if verify else None
    facts = result_facts(model, found, out, top=top, by="influence", nodes=found.n_nodes)
    if export is not None:
        facts["exported"] = str(found.export(export))
    return facts | _checked(done, out)


def parts_of_latent(
    model: str,
    prompt: str,
    dictionary: str,
    latent: int,
    *,
    at: int = -1,
    upstream: Sequence[str] = (),
    depth: int = 1,
    revision: str | None = None,
    out: Path | None = None,
    top: int = 15,
) -> dict[str, Any]:
    """What heads, tokens, MLPs and latents add to one latent.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.direct_feature_attribution`.
    """
    (coder,) = dictionaries_named([dictionary])
    others = dictionaries_named(upstream) if upstream else None
    with running(model, revision) as opened:
        found = interventions.direct_feature_attribution(
            opened, coder, _said(prompt), latent, at, codecs=others, depth=depth
        )
    return result_facts(model, found, out, top=top, by="share")


def aligned(
    ask: CircuitAsk,
    site: str,
    *,
    position: str,
    head: int | None,
    k: int,
    steps: int,
    direction: str,
    out: Path | None = None,
) -> dict[str, Any]:
    """Find k dimensions of one place whose exchange brings the other run's answer.

    Raises:
        LensbenchError: see :func:`lensbench.interventions.align_subspace`.
    """
    how: Any = direction
    where: Any = positions_of(position)
    with running(ask.model, ask.revision) as model:
        found = interventions.align_subspace(
            model, _pairs(model, ask), site, position=where[0] if len(where) == 1 else where,
            head=head, k=k, steps=steps, direction=how, batch_size=ask.batch_size, seed=ask.seed,
        )  # fmt: skip
    return result_facts(ask.model, found, out, site=site, k=k)


def dictionaries_named(names: Sequence[str]) -> list[Any]:
    """Dictionaries as the methods take them: each knows the site it stands at.

    Raises:
        ConfigError: none named.
        LensbenchError: see ``open_dictionary``.
    """
    if not names:
        raise ConfigError("name a dictionary: --dictionary RUN/NAME (it may be repeated)")
    found = [open_dictionary(name) for name in names]
    return [getattr(one, "coder", one) for one in found]


def _pairs(model: Any, ask: CircuitAsk) -> Any:
    return pairs_of(model, ask.task, ask.n, ask.seed, ask.pairs, ask.several)


def _said(prompt: str) -> str:
    if not prompt.strip():
        raise ConfigError("the prompt is empty; type a few words")
    return prompt


def _checked(done: Result | None, out: Path | None) -> dict[str, Any]:
    if done is None:
        return {}
    return {"verified": result_facts("", done, None if out is None else out / "verified")}
