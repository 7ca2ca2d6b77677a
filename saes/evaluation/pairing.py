"""Pairs of a base and a source prompt in one wording, whose entities differ where they must."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lensbench.saes.evaluation.exchange import Exchanger


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompts by number, and the answer that counts as right."""

    base: Int[np.ndarray, " pairs"]
    source: Int[np.ndarray, " pairs"]
    wanted: Int[np.ndarray, " pairs"]
    entity: Int[np.ndarray, " pairs"]
    """Of the base: what is resampled."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.base)


def cause_pairs(
    world: Exchanger,
    part: Bool[np.ndarray, " entities"],
    attribute: int,
    chose: Bool[np.ndarray, " entities"],
    n: int,
    rng: np.random.Generator,
) -> Pairs:
    """Prompts about the attribute; the source's value is wanted."""
    base, source = _drawn(world, part, attribute, attribute, chose, n, rng)
    return _pairs(world, base, source, world.prompts.answer[source])


def isolation_pairs(
    world: Exchanger,
    part: Bool[np.ndarray, " entities"],
    attribute: int,
    chose: Bool[np.ndarray, " entities"],
    n: int,
    rng: np.random.Generator,
) -> Pairs:
    """Prompts about the other attributes, equally many of each; the base's value is wanted."""
    others = [a for a in range(len(world.prompts.attributes)) if a != attribute]
    each = -(-n // len(others))
    drawn = [_drawn(world, part, attribute, other, chose, each, rng) for other in others]
    base, source = (np.concatenate([d[i] for d in drawn]) for i in (0, 1))
    return _pairs(world, base, source, world.prompts.answer[base])


def _pairs(
    world: Exchanger,
    base: Int[np.ndarray, " pairs"],
    source: Int[np.ndarray, " pairs"],
    wanted: Int[np.ndarray, " pairs"],
) -> Pairs:
    return Pairs(base, source, wanted, world.prompts.entity[base])


def _drawn(
    world: Exchanger,
    part: Bool[np.ndarray, " entities"],
    attribute: int,
    asked: int,
    chose: Bool[np.ndarray, " entities"],
    n: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Up to ``n`` different pairs of prompts about ``asked`` that the model knows.

    The two entities differ in ``attribute`` and in ``asked``, and the source's value of
    ``attribute`` is one that coordinates could be chosen by.
    """
    prompts = world.prompts
    seen = np.unique(prompts.values[chose, attribute])
    usable = np.flatnonzero(world.known & part[prompts.entity] & (prompts.attribute == asked))
    pairs: list[np.ndarray] = []
    for wording in np.unique(prompts.wording[usable]):
        rows = usable[prompts.wording[usable] == wording]
        who = prompts.entity[rows]
        values, asks = prompts.values[who, attribute], prompts.values[who, asked]
        fits = (values[:, None] != values) & (asks[:, None] != asks)
        fits &= (values[:, None] >= 0) & np.isin(values, seen) & (values >= 0)
        pairs.append(rows[np.argwhere(fits)])
    found = np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)
    chosen = rng.permutation(len(found))[:n]
    return found[chosen, 0], found[chosen, 1]
