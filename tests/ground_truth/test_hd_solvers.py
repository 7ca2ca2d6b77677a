"""Bundles of several planted pairs, read by every solver: which one is the default, and why.

The default was chosen on bundles of seed 0; these are of seed 5. It reads at least as much as every
other solver in every cell, and more where five noisy pairs share 512 dimensions.
"""

from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from lensbench.errors import UnknownNameError
from lensbench.probes.hd.memory import ItemMemory
from lensbench.probes.hd.probe import SOLVER, HDReading, read_concepts
from lensbench.probes.hd.prompts import ConceptPrompts
from lensbench.probes.hd.solving import SOLVERS
from lensbench.results import load

NAMES = [f"c{i:02d}" for i in range(40)]


def bundles(k: int, n: int = 24, *, space: str = "MAP", noise: float = 0.0, seed: int = 5) -> Any:
    """``n`` bundles of ``k`` pairs of different concepts; a share of the numbers is drawn anew."""
    rng = Random(f"{seed}|{k}")
    rows = list[Any]()
    for _ in range(n):
        words = rng.sample(NAMES, 2 * k)
        pairs = tuple((words[2 * i], words[2 * i + 1]) for i in range(k))
        rows.append((" ".join(words[:-1]), pairs, tuple(words[:-1]), "planted"))
    prompts = ConceptPrompts(*(tuple(column) for column in zip(*rows, strict=True)))
    memory = ItemMemory.random(NAMES, space, dim=512, pairs=1, seed=seed)
    vectors = memory.encode(prompts.numbers(memory), seed=seed)
    lost = torch.rand(vectors.shape, generator=torch.Generator().manual_seed(seed)) < noise
    other = memory.space.random(n, dim=512, seed=seed + 70)
    return memory, torch.where(lost, other, vectors), prompts


def read(made: Any, solver: Any) -> HDReading:
    return read_concepts(*made, solver=solver, threshold=0.25, max_query=2)


@pytest.mark.parametrize(("k", "noise"), [(1, 0.25), (2, 0.0), (2, 0.25), (3, 0.25)])
def test_the_default_reads_planted_bundles_at_least_as_well_as_the_others(
    k: int, noise: float
) -> None:
    made = bundles(k, noise=noise)
    score = {solver: read(made, solver).precision(1).mean for solver in SOLVERS}
    assert score[SOLVER] == max(score.values())
    assert score[SOLVER] > 0.95


@pytest.mark.parametrize("space", ["MAP", "BSC", "HRR", "FHRR"])
def test_pairs_that_crowd_a_bundle_are_explained_away(space: str) -> None:
    made = bundles(6, space=space)
    greedy, queries = read(made, "greedy"), read(made, "threshold")
    assert greedy.precision(1).mean > 0.9
    assert greedy.precision(1).mean >= queries.precision(1).mean
    said = [{frozenset(pair) for pair in row} for row in greedy.pairs]
    true = [{frozenset(pair) for pair in row} for row in made[2].pairs]
    assert np.mean([len(a & b) / len(b) for a, b in zip(said, true, strict=True)]) > 0.9
    assert np.mean([len(a - b) for a, b in zip(said, true, strict=True)]) < 0.1


@pytest.mark.parametrize("space", ["MAP", "BSC"])
def test_a_noisy_bundle_of_many_pairs_is_read_by_the_solver_and_not_by_queries(space: str) -> None:
    """The other pairs are noise to a query, and the solver takes them out."""
    made = bundles(5, n=60, space=space, noise=0.25)
    score = {s: read_concepts(*made, solver=s).precision(1).mean for s in ("greedy", "threshold")}
    assert score["greedy"] > score["threshold"] + 0.2


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_is_read_off_noise_or_off_another_prompt(solver: Any) -> None:
    memory, vectors, prompts = bundles(2)
    noise = memory.space.random(len(vectors), dim=512, seed=99)
    assert read((memory, noise, prompts), solver).answered.mean() < 0.1
    moved = vectors.roll(1, 0)
    assert read((memory, moved, prompts), solver).precision(1).mean < 0.15


def test_a_reading_keeps_its_pairs_and_slips_are_told(tmp_path: Any) -> None:
    made = bundles(2)
    found = read(made, "greedy")
    assert load(found.save(tmp_path)) == found
    assert found.config["solver"] == "greedy"
    assert found.select([3]).pairs == (found.pairs[3],)
    assert found.query[0] in made[2].mentioned[0]
    assert read(made, "threshold").pairs == ()
    with pytest.raises(UnknownNameError, match="Did you mean 'greedy'"):
        read(made, "greed")
