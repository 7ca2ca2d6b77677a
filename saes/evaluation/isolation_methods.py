"""The coordinates that attribute isolation compares, and the order in which each takes them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.exchange import (
    Coordinates,
    Exchanger,
    neurons,
    principal_components,
    ranked,
)
from lensbench.saes.evaluation.pairing import Pairs
from lensbench.saes.evaluation.passes import as_dictionary
from lensbench.saes.evaluation.sums import Sums

DRAWS = 4
"""Orders of random latents that the control averages."""


@dataclass(frozen=True)
class Method:
    """Coordinates, and whether they come by attribute, by shuffled values, by lot, or all."""

    basis: Coordinates
    order: str = "ranked"


def methods_of(
    world: Exchanger, own: Any, twin: Any, held: Bool[np.ndarray, " entities"]
) -> dict[str, Method]:
    """The latents and every baseline; principal components of the entities that choose.

    Raises:
        ConfigError: a twin of another site.
    """
    x = world.flat.float()
    latents = Coordinates.of(own.name, own.codec, x)
    mine = x[~held[world.prompts.entity]]
    each = Coordinates.of("neurons", neurons(x), x)
    found = {
        "latents": Method(latents),
        "random_latents": Method(latents, "lot"),
        "shuffled_labels": Method(latents, "shuffled"),
        "neurons": Method(each),
        "principal_components": Method(Coordinates.of("pca", principal_components(mine), x)),
        "all_latents": Method(latents, "all"),
        "whole_site": Method(each, "all"),
    }
    if twin is not None:
        other = as_dictionary(twin)
        if other.site != own.site:
            raise ConfigError(f"the twin reads {other.site}, the dictionary {own.site}")
        found["twin"] = Method(Coordinates.of(other.name, other.codec, x))
    return found


def orders_of(
    world: Exchanger, held: Bool[np.ndarray, " entities"], a: int, method: Method, seed: int
) -> list[Int[np.ndarray, " found"]]:
    """In which order coordinates are taken for attribute ``a``; several for a lot."""
    basis, prompts = method.basis, world.prompts
    mine = world.known & ~held[prompts.entity]
    codes = basis.codes.numpy()[mine].astype(np.float64)
    rng = np.random.default_rng([own_seed(seed, f"order {method.order}"), a])
    if method.order == "all":
        return [np.arange(basis.codes.shape[1])]
    if method.order == "lot":
        alive = np.flatnonzero((codes != 0).any(0))
        return [rng.permutation(alive) for _ in range(DRAWS)]
    values = prompts.values[:, a].copy()
    if method.order == "shuffled":
        values[~held] = rng.permutation(values[~held])
    return [ranked(codes, prompts.entity[mine], values, basis.lengths)]


def exchanged(
    world: Exchanger,
    methods: list[Method],
    orders: list[list[Int[np.ndarray, " found"]]],
    ks: tuple[int, ...],
    pairs: Pairs,
) -> Float[np.ndarray, "methods ks entities"]:
    """Right answers per base entity, mean over a method's orders; all in one sweep of the model."""
    jobs: list[tuple[int, list[int], float]] = []
    moved: list[Tensor] = []
    for m, (method, mine) in enumerate(zip(methods, orders, strict=True)):
        whole = method.order == "all"  # the same for every k
        for order in mine:
            for j, k in enumerate(ks[:1] if whole else ks):
                chosen = order if whole else order[:k]
                moved.append(method.basis.moved(pairs.base, pairs.source, chosen))
                jobs.append((m, list(range(len(ks))) if whole else [j], 1 / len(mine)))
    said = world.said(np.tile(pairs.base, len(jobs)), moved)
    out = np.zeros((len(methods), len(ks), len(world.prompts.entities)))
    for (m, places, weight), answers in zip(jobs, said.reshape(len(jobs), -1), strict=True):
        right = answers == pairs.wanted
        out[m, places] += weight * np.bincount(pairs.entity, weights=right, minlength=out.shape[2])
    return out


def per_entity(
    hits: Float[np.ndarray, "2 methods ks entities"], counts: Float[np.ndarray, "2 entities"]
) -> list[list[Sums]]:
    """Sums by method and k: hits and pairs of cause and of isolation, per base entity."""
    return [
        [
            {"cause": cause, "isolation": keep, "cause n": counts[0], "isolation n": counts[1]}
            for cause, keep in zip(*both, strict=True)
        ]
        for both in zip(*hits, strict=True)
    ]
