"""Attribute isolation: do the latents of an attribute change it, and nothing else?

Steps, numbered in the body:

1. Clean runs: the site at each prompt's place, and which prompts the model answers rightly.
2. Entities are dealt into those that choose and those that are scored.
3. On the first, coordinates are ranked by how far they move the site with the attribute.
4. For a base and a source entity in the same wording, the first k coordinates are taken from the
   source (see :mod:`~lensbench.saes.evaluation.exchange`). Cause: the base prompt about it now
   gives the source's value. Isolation: prompts about the base's other attributes, which the
   two do not share, still give the base's.
5. k is chosen on the first entities and scored on the others. Every baseline goes the same way.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.models.base import Model
from lensbench.provenance import record
from lensbench.results import Controls
from lensbench.saes.evaluation.attributes import AttributePrompts
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.exchange import Exchanger
from lensbench.saes.evaluation.isolation_methods import (
    Method,
    exchanged,
    methods_of,
    orders_of,
    per_entity,
)
from lensbench.saes.evaluation.isolation_result import AttributeIsolation
from lensbench.saes.evaluation.pairing import cause_pairs, isolation_pairs
from lensbench.saes.evaluation.passes import as_dictionary
from lensbench.saes.evaluation.sums import Sums, bootstrap_documents

KS = (1, 2, 5, 10, 20, 50, 100)
LEAST = 10
"""Held-out pairs that an attribute needs of either kind."""


def attribute_isolation(
    dictionary: Any,
    model: Model,
    prompts: AttributePrompts,
    *,
    ks: Sequence[int] = KS,
    n_pairs: int = 64,
    share: float = 1 / 3,
    twin: Any = None,
    seed: int = 0,
) -> AttributeIsolation:
    """Disentangle score = (cause + isolation) / 2 of every attribute; see the module.

    Unitless, 0 to 1. 0.5 comes from exchanging nothing (0, 1) or all that matters (1, 0); 1 takes
    coordinates that carry this attribute and no other. A low cause of ``whole_site`` says that the
    model does not read the attribute from this site and place.
    Source: RAVEL, Huang et al. 2024, arXiv:2402.17700; Karvonen et al. 2025, arXiv:2503.09532,
    where a mask over latents is trained by gradient; here they are ranked as by a k-sparse probe.

    Controls, all by the same steps: ``random_latents`` that fire, ``shuffled_labels`` (values dealt
    to other entities before ranking), ``neurons``, ``principal_components``, ``all_latents``,
    ``whole_site``, and the latents of ``twin``, a dictionary trained on the re-initialised model.

    Args:
        dictionary: a run, an SAE that knows its site, or a ``Dictionary``.
        model: the model it belongs to.
        prompts: such as :func:`~lensbench.saes.atlas_attributes`.
        ks: numbers of coordinates.
        n_pairs: pairs of prompts per attribute and measure, on either part of the entities.
        share: part of the entities that is scored.
        twin: a dictionary of the same site.
        seed: of every choice.

    Raises:
        ConfigError: no such ``ks``, or a share that leaves nobody.
        NotEnoughDataError: no attribute with enough pairs; says why for each.
        MismatchError: a dictionary of another model or width.

    Example:
        >>> questions = saes.atlas_attributes(entities="countries", at="end")
        >>> found = saes.attribute_isolation(run, model, questions, ks=(4,), n_pairs=10)
    """
    began = time.perf_counter()
    sizes = tuple(sorted({whole_number("each of ks", k, least=1) for k in ks}))
    n_pairs = whole_number("n_pairs", n_pairs, least=LEAST)
    if not sizes or not 0 < share < 1:
        raise ConfigError(f"ks must hold numbers and share lie between 0 and 1; got {ks}, {share}")
    own = as_dictionary(dictionary)
    model.with_saes([own])  # refuses a dictionary of another model, site or width
    world = Exchanger(model, own.site, prompts)  # 1
    held = _dealt(len(prompts.entities), share, seed)  # 2
    methods = methods_of(world, own, twin, held)
    found = [
        _Attribute.of(world, held, a, methods, sizes, n_pairs, seed)
        for a in range(len(prompts.attributes))
    ]
    scored = [f for f in found if not f.missing]
    missing = {prompts.attributes[f.attribute]: f.missing for f in found if f.missing}
    if not scored:
        raise NotEnoughDataError(
            "no attribute can be scored: " + "; ".join(f"{a}: {why}" for a, why in missing.items())
        )
    names = tuple(methods)
    result = AttributeIsolation(
        name=own.name,
        site=own.site,
        methods=names,
        attributes=tuple(prompts.attributes[f.attribute] for f in scored),
        beside=prompts.attributes,
        missing=missing,
        ks=sizes,
        cause=np.stack([f.rate("cause") for f in scored], 1),
        isolation=np.stack([f.rate("isolation") for f in scored], 1),
        bounds=np.stack([f.bounds(seed) for f in scored], 1),
        selected=np.stack([f.selected() for f in scored], 1),
        chosen=_padded([f.latents[: sizes[-1]] for f in scored]),
        score=np.zeros((len(names), 3)),
        means=np.zeros((len(names), len(sizes), 3)),
        n_pairs=np.array([f.counts for f in scored]),
        known=np.array([_share(world.known[prompts.attribute == a]) for a in range(len(found))]),
        n_entities=(int((~held).sum()), int(held.sum())),
        config={"ks": list(sizes), "n_pairs": n_pairs, "share": share, "seed": seed},
        provenance=record(model=vars(model.card), seed=seed, seconds=time.perf_counter() - began),
    )
    return _finished(result, scored, seed)


@dataclass(frozen=True)
class _Attribute:
    """One attribute: its pairs, and what every method made of them, as sums per base entity."""

    attribute: int
    missing: str = ""
    latents: Int[np.ndarray, " found"] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: tuple[int, int] = (0, 0)
    held: tuple[list[list[Sums]], ...] = ()
    """Sums by method and k, on scored entities; then on those that chose."""

    @classmethod
    def of(
        cls,
        world: Exchanger,
        held: Bool[np.ndarray, " entities"],
        a: int,
        methods: dict[str, Method],
        ks: tuple[int, ...],
        n_pairs: int,
        seed: int,
    ) -> "_Attribute":
        """Steps 3 and 4 for every method."""
        rng = np.random.default_rng([own_seed(seed, "attribute pairs"), a])
        sets = [
            (cause_pairs(world, part, a, ~held, n_pairs, rng),
             isolation_pairs(world, part, a, ~held, n_pairs, rng))
            for part in (held, ~held)
        ]  # fmt: skip
        for kind, pairs in zip(("cause", "isolation"), sets[0], strict=True):
            if len(pairs) < LEAST:
                why = f"{len(pairs)} pairs for {kind}, {LEAST} are needed (a value must be shared "
                return cls(a, why + "by an entity that chose; the model must know both answers)")
        every = list(methods.values())
        orders = [orders_of(world, held, a, method, seed) for method in every]  # 3
        n = len(world.prompts.entities)
        sums = tuple(
            per_entity(
                np.stack([exchanged(world, every, orders, ks, pairs) for pairs in both]),  # 4
                np.stack([np.bincount(pairs.entity, minlength=n).astype(float) for pairs in both]),
            )
            for both in sets
        )
        counts = (len(sets[0][0]), len(sets[0][1]))
        return cls(a, "", orders[0][0], counts, sums)

    def rate(self, what: str, part: int = 0) -> Float[np.ndarray, "methods ks"]:
        """Share of the pairs that came out as they should."""
        return np.array([[_rate(s, what) for s in row] for row in self.held[part]], np.float64)

    def selected(self) -> Float[np.ndarray, "methods ks"]:
        """Disentangle score on the entities that chose."""
        return (self.rate("cause", 1) + self.rate("isolation", 1)) / 2

    def bounds(self, seed: int) -> Float[np.ndarray, "methods ks 2"]:
        """Bootstrap over base entities."""
        return np.array([[_interval([s], seed)[1:] for s in row] for row in self.held[0]])


def _finished(
    result: AttributeIsolation, scored: list[_Attribute], seed: int
) -> AttributeIsolation:
    """Step 5: the chosen k, scored."""
    best = result.best_k
    methods, ks = range(len(result.methods)), range(len(result.ks))

    def mean(m: int, places: Sequence[int]) -> tuple[float, float, float]:
        return _interval([f.held[0][m][j] for f, j in zip(scored, places, strict=True)], seed)

    score = np.array([mean(m, best[m].tolist()) for m in methods])
    means = np.array([[mean(m, [j] * len(scored)) for j in ks] for m in methods])
    controls = {m: float(score[i, 0]) for i, m in enumerate(result.methods) if m != "latents"}
    note = "mean disentangle score over attributes, k chosen on other entities"
    return replace(result, score=score, means=means, controls=Controls(controls, note))


def _interval(parts: list[Sums], seed: int) -> tuple[float, float, float]:
    """Disentangle score, mean over the parts (attributes), resampling entities of all together."""
    joined = {f"{i} {name}": column for i, s in enumerate(parts) for name, column in s.items()}

    def score(sums: Sums) -> Float[np.ndarray, " draws"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = [
                sums[f"{i} {what}"] / sums[f"{i} {what} n"]
                for i in range(len(parts))
                for what in ("cause", "isolation")
            ]
        return np.mean(rates, 0)

    found = bootstrap_documents(joined, score, seed=seed)
    return found.mean, found.low, found.high


def _dealt(n: int, share: float, seed: int) -> Bool[np.ndarray, " entities"]:
    order = np.random.default_rng(own_seed(seed, "entities")).permutation(n)
    many = round(share * n)
    if not 2 <= many <= n - 2:
        raise ConfigError(f"{n} entities with share {share} leave {many} to score and {n - many}")
    held = np.zeros(n, bool)
    held[order[:many]] = True
    return held


def _rate(sums: Sums, what: str) -> float:
    return float(sums[what].sum() / max(sums[f"{what} n"].sum(), 1))


def _share(values: Bool[np.ndarray, " n"]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _padded(rows: list[Int[np.ndarray, " n"]]) -> Int[np.ndarray, "rows most"]:
    out = np.full((len(rows), max(len(r) for r in rows)), -1, np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
