"""Latents found on a model, carried over to its fine-tuned sibling.

1. On the base, the separation of known and unknown entities selects latents for each class, and
   the direct effect on the attribute selects heads.
2. On the sibling, asked about entities that had no part in it: does the activation of these latents
   tell the classes apart (AUROC, beside the base's on the same prompts)?
3. Their decoder rows are added at the entity's tokens, at every strength, or taken out, beside
   random latents at equal length: the metric (a refusal's probability, say), and the attention of
   the attribute heads from the last token to the entity, before and after.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lensbench import provenance
from lensbench.arguments import whole, whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.metrics import MetricLike
from lensbench.interventions.selection.attributes import attribute_effects, best_heads
from lensbench.interventions.selection.confounds import auroc_interval
from lensbench.interventions.selection.entities import EntityPrompts
from lensbench.interventions.selection.separation import acts_at, entity_separation, reader
from lensbench.interventions.selection.sibling_result import SiblingStudy
from lensbench.interventions.selection.stepping import (
    arms_of,
    asked_of,
    attention_to,
    steered_study,
)
from lensbench.interventions.steering.rows import batch_of
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.models.splice import Splice
from lensbench.results import Controls
from lensbench.sites import Site

LEVEL = 0.95


def sibling_study(
    base: Model,
    sibling: Model,
    found_on: EntityPrompts,
    prompts: EntityPrompts,
    site: str | Site,
    codec: Any = None,
    *,
    metric: MetricLike,
    strengths: Sequence[float] = (0.5, 1.0, 2.0),
    top: int = 1,
    random: int = 40,
    within: float = 0.05,
    heads: int | Sequence[tuple[int, int]] = 3,
    token: int = -1,
    background: Any = None,
    batch_size: int = 64,
    seed: int = 0,
    **settings: Any,
) -> SiblingStudy:
    """Select latents and heads on ``base``, and apply them to ``sibling``.

    AUROC: chance that the latent is more active, at the entity's token, on an entity of its class
    than on one of the other (ties count half; means over an entity's prompts). Steps are those of
    :func:`selection_study`. Source: Ferrando et al. 2024, arXiv:2411.14257, where dictionaries of a
    base model steer refusals of its chat model; AUROC and intervals are ours.

    Args:
        base: the model whose dictionary it is.
        sibling: a fine-tuned copy: same widths, same token ids.
        found_on: prompts for the base; those of its first class need answers (their attributes)
            where ``heads`` is a number.
        prompts: prompts for the sibling, about other entities.
        site: where latents are read and added.
        codec: a dictionary of the base; None for the site's own numbers.
        metric: measured on the sibling: :func:`token_probability` of a refusal, say.
        strengths: of the added steps, in lengths of the sibling's state.
        top: latents selected for each class.
        random: control latents.
        within: they differ by at most this in every group.
        heads: how many attribute heads to choose on the base, or ``(layer, head)`` pairs.
        token: the entity's token at which latents are read, -1 the last.
        background: see :func:`entity_separation`.
        batch_size: most rows in one forward pass.
        seed: of permutations and controls.
        settings: of :func:`separation`.

    Raises:
        ConfigError: prompts that share an entity, or arguments that do not fit.
        MismatchError: models of different shape or vocabulary.
        NotEnoughDataError: too few neutral latents.
        NonFiniteError: NaN in states or metric.

    Example:
        >>> one, other = entities.halves(seed=0)
        >>> found = interventions.sibling_study(
        ...     model,
        ...     early,
        ...     one,
        ...     other,
        ...     "blocks.3.resid_post",
        ...     run,
        ...     metric=interventions.answer_entropy(),
        ...     random=1,
        ...     within=1.0,
        ...     heads=[(4, 1)],
        ... )
    """
    began = time.monotonic()
    _check(base, sibling, found_on, prompts, site)
    top, random = whole_number("top", top, least=1), whole_number("random", random, least=1)
    whole_number("seed", seed, least=0)
    number = None if whole(heads) is None else whole_number("heads", heads, least=0)
    given: Any = () if number is not None else heads
    asked = asked_of(
        sibling, prompts, site, metric=metric, strengths=strengths, heads=given,
        ablate_sites=None, batch_size=batch_size,
    )  # fmt: skip
    effects = np.full((base.card.n_layers, base.card.n_heads), np.nan)
    if number:
        effects = attribute_effects(base, found_on, after=site, batch_size=batch_size)
        asked = replace(asked, heads=best_heads(effects, number))
    found = entity_separation(
        base, found_on, site, codec, token=token, background=background, batch_size=batch_size,
        seed=seed, **settings,
    )  # fmt: skip
    arms = arms_of(base, site, codec, found, top, random, within, seed)
    config = {"top": top, "random": random, "within": within, "token": token}
    spliced = reader(base, site, codec)
    read = [_activations(m, prompts, spliced, site, token, arms.latents, batch_size)
            for m in (base, sibling)]  # fmt: skip
    tables = np.stack([_aurocs(x, prompts, arms.kinds, seed) for x in read])
    result = SiblingStudy(
        separation=found, site=found.site, classes=found.classes, latents=np.array(arms.latents),
        kinds=arms.kinds, auroc=tables[..., 0], low=tables[..., 1], high=tables[..., 2],
        direct_effect=effects, heads=tuple(f"L{a}H{b}" for a, b in asked.heads),
        base_attention=_attention(base, prompts, asked.heads, batch_size),
        steering=steered_study(sibling, prompts, found, arms, asked, config, seed, began),
        config={**config, "seed": seed, "base": base.card.fingerprint,
                "sibling": sibling.card.fingerprint},
        provenance=provenance.record(
            model=vars(sibling.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    drawn = result.auroc[1, result.rows_of("random")]
    told = {"random_latents_auroc": float(drawn.mean()),
            "random_latents_auroc_farthest": float(0.5 + np.abs(drawn - 0.5).max())}  # fmt: skip
    return replace(result, controls=Controls(told, "AUROC of random latents on the sibling"))


def _check(
    base: Model, sibling: Model, found_on: EntityPrompts, prompts: EntityPrompts, site: str | Site
) -> None:
    for name, mine, other in (
        (f"numbers at {site}", base.width(site), sibling.width(site)),
        ("tokens", base.card.d_vocab, sibling.card.d_vocab),
        ("layers", base.card.n_layers, sibling.card.n_layers),
        ("heads", base.card.n_heads, sibling.card.n_heads),
    ):
        if mine != other:
            raise MismatchError(
                f"the base has {mine} {name} and the other model {other}; a sibling is a "
                "fine-tuned copy of the base"
            )
    if both := sorted({*found_on.entity} & {*prompts.entity}):
        raise ConfigError(
            f"{len(both)} entities, {both[0]!r} among them, are in both sets of prompts; what is "
            "found on some must be tried on others (EntityPrompts.halves divides them)"
        )
    if found_on.classes != prompts.classes:
        raise ConfigError(f"classes {found_on.classes} and {prompts.classes} are not the same")
    if prompts.first.all() or not prompts.first.any():
        raise ConfigError("the prompts for the sibling are all about one class; both are needed")


def _activations(
    model: Model, prompts: EntityPrompts, spliced: Splice | None, site: str | Site, token: int,
    latents: Sequence[int], batch_size: int,
) -> np.ndarray:  # fmt: skip
    """``[prompts, latents]`` at one token of each entity."""
    where = [(own[token],) for own in prompts.tokens]
    acts = acts_at(model, prompts.rows, where, spliced, site, batch_size)
    return acts[:, list(latents)].double().numpy()


def _aurocs(
    acts: np.ndarray, prompts: EntityPrompts, kinds: Sequence[str], seed: int
) -> np.ndarray:
    """``[latents, 3]``: AUROC for the class a latent was selected for, and its interval."""
    names = prompts.entities
    unit = np.array([names.index(name) for name in prompts.entity])
    counts = np.bincount(unit)
    first = np.bincount(unit, weights=prompts.first) > 0
    rows: list[tuple[float, float, float]] = []
    for kind, values in zip(kinds, acts.T, strict=True):
        mine = ~first if kind == prompts.classes[1] else first
        means = np.bincount(unit, weights=values) / counts
        rows.append(auroc_interval(means, mine, LEVEL, seed))
    return np.array(rows)


def _attention(
    model: Model, prompts: EntityPrompts, heads: Sequence[tuple[int, int]], batch_size: int
) -> np.ndarray:
    """``[prompts, heads]`` of the unsteered model."""
    sites = list(dict.fromkeys(Site("attn.pattern", layer) for layer, _ in heads))
    found = np.full((len(prompts), len(heads)), np.nan)
    for part in groups(len(prompts), batch_size):
        tokens = batch_of(model, [list(prompts.rows[i]) for i in part])
        if sites:
            out = model.run(tokens, capture=sites, logits="none")
            found[part] = attention_to(prompts, heads, part, out)
    return found
