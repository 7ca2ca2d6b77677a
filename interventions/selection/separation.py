"""Search for latents that tell two classes of entities apart.

1. Every prompt's state at its entity's last token is encoded (raw neurons: as it is).
2. Firing frequencies of both classes, group by group (:mod:`.rates`).
3. Latents that fire on too much ordinary text are dropped: they are no entity latents.
4. The general score is the least difference over groups; its null is that of the maximum over all
   latents under labels that were moved between entities.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import refuse_no_model, whole, whole_number
from lensbench.errors import ConfigError, NonFiniteError, NotEnoughDataError, UnknownNameError
from lensbench.interventions.experts.rows import rows_of
from lensbench.interventions.selection.entities import KNOWN, EntityPrompts, flags, one_class
from lensbench.interventions.selection.rates import frequencies, general, null_maxima, p_values
from lensbench.interventions.selection.result import LatentSeparation
from lensbench.interventions.steering.direction import one_vector
from lensbench.interventions.steering.rows import batch_of
from lensbench.interventions.values import groups as parts_of
from lensbench.models.base import Model
from lensbench.models.splice import Splice, fingerprint_of, read_splices
from lensbench.results import Controls
from lensbench.sites import Site

FIRES = 1e-6
MOST = 0.02


def separation(
    acts: Any,
    first: Any,
    groups: Sequence[Any] | np.ndarray | None = None,
    *,
    entities: Sequence[Any] | np.ndarray | None = None,
    classes: tuple[str, str] = KNOWN,
    threshold: float = FIRES,
    background: Any = None,
    most: float = MOST,
    permutations: int = 200,
    seed: int = 0,
    site: str = "",
) -> LatentSeparation:
    """Firing frequencies of latents in two classes, their difference, and its null.

    ``s_a = min_g (f_a,g - f_b,g)``, ``s_b = min_g (f_b,g - f_a,g)``, -1 to 1, with f the share of
    prompts on which the activation is above ``threshold``. ``p = (1 + #{relabellings whose greatest
    score over all latents and both classes is at least s}) / (1 + relabellings)``: corrected for
    the search. Source: Ferrando et al. 2024, arXiv:2411.14257; the null is ours.

    Args:
        acts: activations ``[prompts, latents]``.
        first: whether each prompt is of the first class.
        groups: type of entity, or wording, of each prompt; left out, one group.
        entities: which entity each prompt names; labels move with it. Left out, each its own.
        classes: names of the two classes.
        threshold: a latent fires above this.
        background: activations ``[tokens, latents]`` of ordinary text; latents that fire on
            ``most`` of these tokens or more are dropped.
        most: see ``background``.
        permutations: relabellings.
        seed: of the relabellings.
        site: told in the result.

    Raises:
        ConfigError: arguments of unequal length, or an entity of both classes.
        NonFiniteError: NaN in the activations.
        NotEnoughDataError: a group without one of the classes, or no latent left.

    Example:
        >>> first = (x[:, 0] > 0).numpy()
        >>> found = interventions.separation(acts, first, permutations=10)
    """
    began = time.monotonic()
    permutations = whole_number("permutations", permutations, least=1)
    fires = _fires("acts", acts, threshold)
    mine = flags("first", first, len(fires))
    named = list(groups) if groups is not None else ["all"] * len(fires)
    units: list[Any] = list(entities) if entities is not None else list(range(len(fires)))
    for name, given in (("groups", named), ("entities", units)):
        if len(given) != len(fires):
            raise ConfigError(f"{name} must hold one entry per prompt ({len(fires)})")
    one_class([str(u) for u in units], mine)
    names, group = np.unique(np.array([str(g) for g in named]), return_inverse=True)
    _both(names, group, mine, classes)
    common, kept = _common(background, fires.shape[1], threshold, most)
    frequency, n = frequencies(fires, mine, group)
    score = np.where(kept, general(frequency), np.nan)
    null = null_maxima(fires[:, kept], mine, group, units, permutations, seed)
    counted = [len({u for u, f in zip(units, mine, strict=True) if f == side}) for side in (1, 0)]
    result = LatentSeparation(
        site=site, classes=classes, groups=tuple(names.tolist()), frequency=frequency, n=n,
        n_entities=np.array(counted), score=score, p=p_values(score, null), null=null, kept=kept,
        background=common, threshold=float(threshold),
        config={"most": most, "permutations": permutations, "seed": seed},
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - began),
    )  # fmt: skip
    greatest = float(null.max(1).mean())
    note = "mean and 95th percentile of the greatest score under moved labels"
    controls = Controls({"moved_labels": greatest, "moved_labels_95": result.line}, note)
    return replace(result, controls=controls)


def entity_separation(
    model: Model,
    prompts: EntityPrompts,
    site: str | Site,
    codec: Any = None,
    *,
    token: int = -1,
    background: Any = None,
    batch_size: int = 64,
    **settings: Any,
) -> LatentSeparation:
    """:func:`separation` of a model's own states at a token of each entity.

    Args:
        model: any back end.
        prompts: see :func:`entity_prompts`.
        site: where the latents are read.
        codec: a dictionary; None for the site's own numbers (neurons of ``mlp.post``).
        token: which of the entity's tokens, -1 the last.
        background: texts or ids; every token but BOS counts.
        batch_size: most rows in one forward pass.
        settings: of :func:`separation` (``threshold``, ``most``, ``permutations``, ``seed``).

    Raises:
        UnknownSiteError, ConfigError: a site or token that is not there.
        MismatchError: a dictionary of another model, site or width.
        NonFiniteError: NaN in the states.

    Example:
        >>> known = interventions.entities_of_pairs(model, pairs, "subject")
        >>> found = interventions.entity_separation(model, known, "blocks.3.resid_post", run)
    """
    _check_settings(settings)
    refuse_no_model(model)
    spliced = reader(model, site, codec)
    where = tuple(_token(prompts, row, token) for row in range(len(prompts)))
    acts = acts_at(model, prompts.rows, [(at,) for at in where], spliced, site, batch_size)
    common = None
    if background is not None:
        rows = tuple(map(tuple, rows_of(model, background)))
        bos = getattr(model.tokenizer, "bos_token_id", None)
        places = [tuple(i for i, t in enumerate(row) if i or t != bos) for row in rows]
        common = acts_at(model, rows, places, spliced, site, batch_size)
    found = separation(
        acts, prompts.first, prompts.group, entities=prompts.entity, classes=prompts.classes,
        background=common, site=str(one_vector(site)), **settings,
    )  # fmt: skip
    told = {"token": token, "dictionary": fingerprint_of(codec) if codec is not None else "neurons"}
    seen = replace(found.provenance, model=vars(model.card))
    return replace(found, config={**found.config, **told}, provenance=seen)


def reader(model: Model, site: str | Site, codec: Any) -> Splice | None:
    """The dictionary at the site, checked against the model; None for its own numbers."""
    parsed = one_vector(site)
    model.width(parsed)
    return None if codec is None else read_splices(model, {str(parsed): codec}, "keep")[0]


def acts_at(
    model: Model,
    rows: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    spliced: Splice | None,
    site: str | Site,
    batch_size: int = 64,
) -> Float[Tensor, "tokens latents"]:
    """Latents (or the site's own numbers) at some tokens of each row, row after row.

    Raises:
        NonFiniteError: NaN in the states.
    """
    parsed, found = one_vector(site), list[Tensor]()
    for part in parts_of(len(rows), whole_number("batch_size", batch_size, least=1)):
        batch = batch_of(model, [list(rows[i]) for i in part])
        states = model.run(batch, capture=parsed, logits="none").acts[parsed]
        chosen = [x[x.shape[0] - len(rows[i]) :][list(tokens[i])]
                  for i, x in zip(part, states, strict=True)]  # fmt: skip
        x = torch.cat(chosen)
        if bool(x.isnan().any()):
            raise NonFiniteError(f"states at {parsed} hold NaN; run the model in float32")
        with torch.no_grad():
            found.append((x if spliced is None else spliced.on(x.device).encode(x)).float().cpu())
    return torch.cat(found)


_SETTINGS = ("threshold", "most", "permutations", "seed")


def _check_settings(settings: dict[str, Any]) -> None:
    if unknown := [name for name in settings if name not in _SETTINGS]:
        raise UnknownNameError("setting", unknown[0], known=_SETTINGS)
    for name in ("threshold", "most"):
        given = settings.get(name, 0.0)
        if isinstance(given, str | bool) or not hasattr(given, "__float__"):
            raise ConfigError(f"{name} must be a number, got {given!r}")


def _token(prompts: EntityPrompts, row: int, token: int) -> int:
    own, number = prompts.tokens[row], whole(token)
    if number is None or not -len(own) <= number < len(own):
        raise ConfigError(
            f"{prompts.entity[row]!r} has {len(own)} tokens, so token must be of "
            f"{-len(own)}..{len(own) - 1}; got {token!r}"
        )
    return own[number]


def _fires(name: str, acts: Any, threshold: float) -> np.ndarray:
    values = acts.detach().cpu().float().numpy() if isinstance(acts, Tensor) else np.asarray(acts)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "bfiu":
        raise ConfigError(f"{name} must be numbers [prompts, latents], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise NonFiniteError(f"{int((~np.isfinite(values)).sum())} of {values.size} numbers of "
                             f"{name} are not finite")  # fmt: skip
    return values > threshold


def _both(
    names: np.ndarray, group: np.ndarray, first: np.ndarray, classes: tuple[str, str]
) -> None:
    for g, name in enumerate(names):
        for side, label in enumerate(classes):
            if not (first[group == g] == (side == 0)).any():
                raise NotEnoughDataError(
                    f"group {str(name)!r} has no prompt of class {label!r}: the general score is a "
                    "minimum over groups, so each needs both classes"
                )


def _common(
    background: Any, width: int, threshold: float, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """Share of background tokens on which each latent fires, and which are kept."""
    if background is None:
        return np.full(width, np.nan), np.ones(width, dtype=bool)
    fires = _fires("background", background, threshold)
    if fires.shape[1] != width:
        raise ConfigError(f"background has {fires.shape[1]} latents, the prompts {width}")
    share = fires.mean(0)
    if not (share < most).any():
        raise NotEnoughDataError(
            f"every latent fires on at least {most:.3g} of the background tokens; raise most or "
            "the threshold"
        )
    return share, share < most
