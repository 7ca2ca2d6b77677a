"""Running routes over texts: deletion and swap of layers, pruned models, skipped halves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration.decoding import native
from lensbench.interventions.acceleration.skipping.forced import Forced
from lensbench.interventions.acceleration.skipping.report import RouteReport
from lensbench.interventions.acceleration.skipping.route import Route, swapped, without
from lensbench.models.base import Model
from lensbench.results import Controls
from lensbench.tokens import TokensLike


def route_damage(
    model: Model, text: "TokensLike | Sequence[str]", routes: Mapping[str, Route]
) -> RouteReport:
    """What every route does to the predictions of texts, teacher-forced, beside the full model.

    One pass of the whole model per text, and one per route from the block where it parts from it.

    Args:
        model: a decoder-only model.
        text: documents as strings or ids; padding is left out.
        routes: name to route.

    Raises:
        ConfigError: no route, no text of two tokens, or a route the model cannot take.

    Example:
        >>> routes = {
        ...     "without 4": acceleration.without(6, [4]),
        ...     "2 and 3 swapped": acceleration.swapped(6, 2),
        ... }
        >>> found = acceleration.route_damage(model, [text], routes)
    """
    runnable = native(model)
    if not routes:
        raise ConfigError("routes is empty; name at least one, such as {'no 3': without(L, [3])}")
    for route in routes.values():
        route.check(runnable.n_layers)
    documents = documents_of(runnable, text)
    sums = {name: np.zeros((len(routes), len(documents))) for name in ("kl", "agreed", "loss")}
    full_loss = np.zeros(len(documents))
    for d, ids in enumerate(documents):
        forced = Forced(runnable, ids)
        full = forced.full[:-1].double().log_softmax(-1)
        full_loss[d] = _loss(full, ids)
        for r, route in enumerate(routes.values()):
            found = forced.along(route)[:-1].double().log_softmax(-1)
            sums["kl"][r, d] = float((full.exp() * (full - found)).sum())
            sums["agreed"][r, d] = float((full.argmax(-1) == found.argmax(-1)).sum())
            sums["loss"][r, d] = _loss(found, ids)
    return RouteReport(
        routes=tuple(routes),
        layers=np.array([route.layers for route in routes.values()]),
        n_layers=runnable.n_layers,
        tokens=np.array([len(ids) - 1 for ids in documents]),
        full_loss=full_loss,
        controls=Controls(note="the full model along its own layers: agreement 1, divergence 0"),
        provenance=provenance.record(model=vars(runnable.card)),
        kl=sums["kl"],
        agreed=sums["agreed"],
        loss=sums["loss"],
    )


def robustness(model: Model, text: "TokensLike | Sequence[str]") -> RouteReport:
    """Every layer deleted, and every pair of neighbours swapped (Lad et al. 2024).

    Routes are called ``delete <l>`` and ``swap <l>``. The share of tokens that keep their largest
    logit is the paper's "prediction accuracy" of the model so changed.

    Raises:
        ConfigError: no text of two tokens, or an architecture without keys and values per layer.

    Example:
        >>> found = acceleration.robustness(model, [text, "The king that the boys know"])
        >>> found.to_frame()[["route", "agreement", "kl"]].head(2)
    """
    n = native(model).n_layers
    routes = {f"delete {i}": without(n, [i]) for i in range(n)}
    return route_damage(model, text, routes | {f"swap {i}": swapped(n, i) for i in range(n - 1)})


def documents_of(model: Any, text: Any) -> list[Tensor]:
    """Ids of every text of at least two tokens, without padding.

    Raises:
        ConfigError: there is none.
    """
    given = model.tokens(text) if isinstance(text, str) or _strings(text) else text
    batch = model.layout.batch(given, model.device)
    rows = [ids[real] for ids, real in zip(batch.ids, batch.real, strict=True)]
    found = [row for row in rows if len(row) > 1]
    if not found:
        raise ConfigError("no text has two tokens, so nothing is predicted")
    return found


def _strings(text: Any) -> bool:
    return isinstance(text, (list, tuple)) and bool(text) and isinstance(text[0], str)  # pyright: ignore[reportUnknownArgumentType]


def _loss(logprobs: Tensor, ids: Tensor) -> float:
    return float(-torch.gather(logprobs, 1, ids[1:, None]).sum())
