"""Latents that tell two classes of entities apart: found, steered with, carried to a sibling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensbench import interventions
from lensbench.app.workflows.answers import result_facts
from lensbench.app.workflows.circuits import dictionaries_named
from lensbench.app.workflows.entities import EntityAsk, entities_of
from lensbench.app.workflows.live import hold_model, running
from lensbench.app.workflows.token_names import token_named
from lensbench.errors import ConfigError, UnknownNameError
from lensbench.interventions.metrics import METRICS

ENTROPY = "entropy"


def separating(
    model: str, ask: EntityAsk, site: str, *, dictionary: str = "", token: int = -1,
    permutations: int = 200, batch_size: int = 64, revision: str | None = None, top: int = 10,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Latents whose firing tells the classes apart in every group, with p of the whole search.

    Raises:
        LensbenchError: see ``entities_of`` and :func:`lensbench.interventions.entity_separation`.
    """
    codec = _codec(dictionary)
    with running(model, revision) as opened:
        prompts = entities_of(opened, ask)
        found = interventions.entity_separation(
            opened, prompts, site, codec, token=token, permutations=permutations,
            batch_size=batch_size, seed=ask.seed,
        )  # fmt: skip
    return result_facts(model, found, out, top=top, by="general", **_told(prompts))


def confounding(
    model: str, ask: EntityAsk, *, folds: int = 5, revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Can the classes be told apart by length, frequency or embeddings of the names alone?

    Raises:
        LensbenchError: see ``entities_of`` and :func:`lensbench.interventions.confounds`.
    """
    with running(model, revision) as opened:
        prompts = entities_of(opened, ask)
        found = interventions.confounds(opened, prompts, folds=folds, seed=ask.seed)
    return result_facts(model, found, out, **_told(prompts))


def attribute_heads(
    model: str, ask: EntityAsk, *, after: str = "", batch_size: int = 64,
    revision: str | None = None, top: int = 10,
) -> dict[str, Any]:  # fmt: skip
    """Heads that bring the answer from the entity to the last token; control: the second class.

    Raises:
        LensbenchError: see ``entities_of`` and :func:`lensbench.interventions.attribute_effects`.
    """
    with running(model, revision) as opened:
        prompts = entities_of(opened, ask)
        found = interventions.attribute_effects(opened, prompts, after=after or None,
                                                batch_size=batch_size)  # fmt: skip
        turned = interventions.EntityPrompts(
            prompts.rows, prompts.tokens, prompts.entity, ~prompts.first, prompts.group,
            prompts.classes, prompts.answer, prompts.foil,
        )  # fmt: skip
        other = interventions.attribute_effects(opened, turned, after=after or None,
                                                batch_size=batch_size)  # fmt: skip
    first, second = prompts.classes
    rows = [{"head": f"L{a}H{b}", "layer": a, "effect": float(found[a, b]),
             f"effect_{second}": float(other[a, b]), "n": int(prompts.first.sum())}
            for a, b in np.argwhere(np.isfinite(found)).tolist()]  # fmt: skip
    rows.sort(key=lambda row: -abs(float(row["effect"])))
    control = float(np.nanmax(np.abs(other)))
    return {
        "model": model, **_told(prompts), "rows": rows[:top], "of": len(rows),
        "units": {"effect": "nats", "n": f"prompts about {first} entities"},
        "summary": {"largest": float(rows[0]["effect"]), "prompts": float(prompts.first.sum())},
        "controls": {f"largest_{second}": control},
        "control": f"the largest effect on prompts about {second} entities",
    }  # fmt: skip


def steered(
    model: str, ask: EntityAsk, site: str, *, dictionary: str = "", metric: str = ENTROPY,
    says: Sequence[str] = (), strengths: Sequence[float], ablate_sites: Sequence[str] = (),
    top: int = 1, random: int = 10, within: float = 0.05, heads: Sequence[str] = (),
    token: int = -1, permutations: int = 200, batch_size: int = 64, revision: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Select latents on half of the entities, and steer prompts about the other half.

    Raises:
        LensbenchError: see ``entities_of`` and :func:`lensbench.interventions.selection_study`.
    """
    codec = _codec(dictionary)
    with running(model, revision) as opened:
        prompts = entities_of(opened, ask)
        found = interventions.selection_study(
            opened, prompts, site, codec, metric=metric_of(opened, metric, says),
            strengths=tuple(strengths), ablate_sites=list(ablate_sites) or None, top=top,
            random=random, within=within, heads=heads_of(heads), token=token,
            permutations=permutations, batch_size=batch_size, seed=ask.seed,
        )  # fmt: skip
    return result_facts(model, found, out, **_told(prompts))


def sibling(
    base: str, other: str, ask: EntityAsk, on: EntityAsk, site: str, *, dictionary: str = "",
    metric: str = ENTROPY, says: Sequence[str] = (), strengths: Sequence[float], top: int = 1,
    random: int = 40, within: float = 0.05, heads: str = "3", token: int = -1,
    permutations: int = 200, batch_size: int = 64, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Select latents and heads on one model, and apply them to its fine-tuned sibling.

    Raises:
        LensbenchError: see ``entities_of`` and :func:`lensbench.interventions.sibling_study`.
    """
    codec = _codec(dictionary)
    many: Any = int(heads) if heads.isdigit() else heads_of([heads] if heads else [])
    tuned = hold_model(other)
    with running(base) as opened, tuned.lock:
        found_on, prompts = entities_of(opened, ask), entities_of(tuned.model, on)
        found = interventions.sibling_study(
            opened, tuned.model, found_on, prompts, site, codec,
            metric=metric_of(tuned.model, metric, says), strengths=tuple(strengths), top=top,
            random=random, within=within, heads=many, token=token, permutations=permutations,
            batch_size=batch_size, seed=ask.seed,
        )  # fmt: skip
    return result_facts(base, found, out, sibling=other, **_told(prompts))


def metric_of(model: Any, metric: str, says: Sequence[str]) -> Any:
    """A metric by its name, ``entropy``, or the probability of tokens that are said.

    Raises:
        ConfigError: a token that is none.
        UnknownNameError: no such metric.
    """
    if says:
        ids = [token_named(model.tokenizer, text) for text in says]
        return interventions.token_probability(ids, f"says {', '.join(says)}")
    if metric == ENTROPY:
        return interventions.answer_entropy()
    if metric not in METRICS:
        raise UnknownNameError("metric", metric, known=(ENTROPY, *METRICS))
    return metric


def heads_of(named: Sequence[str]) -> list[tuple[int, int]]:
    """``4.1`` as layer 4, head 1.

    Raises:
        ConfigError: written otherwise.
    """
    found: list[tuple[int, int]] = []
    for text in (part for name in named for part in name.replace(",", " ").split()):
        layer, dot, head = text.partition(".")
        if not (dot and layer.isdigit() and head.isdigit()):
            raise ConfigError(f"--heads {text!r} cannot be read; write LAYER.HEAD, such as 4.1")
        found.append((int(layer), int(head)))
    return found


def _codec(dictionary: str) -> Any:
    """The dictionary, or None for the site's own numbers."""
    return dictionaries_named([dictionary])[0] if dictionary else None


def _told(prompts: Any) -> dict[str, Any]:
    return {"classes": list(prompts.classes), "prompts": len(prompts),
            "entities": len(prompts.entities), "groups": len(set(prompts.group))}  # fmt: skip
