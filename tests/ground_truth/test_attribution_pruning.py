"""ACDC on circuits whose edges are known."""

import numpy as np
import pytest

import lensbench
from lensbench import interventions, prompts
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.attribution.faithful import Runs
from lensbench.interventions.metrics import logit_diff
from tests.ground_truth.test_circuits import planted

COPIED = {"input -> L0H0.v", "L0H0 -> L1H1.k", "L1H1 -> logits"}


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model("atlas-dense", certify=False)


@pytest.fixture(scope="module")
def induction():
    model = planted()
    clean = [[0, 1, 2, 3, 0], [4, 5, 6, 7, 4]]
    corrupted = [[2, 1, 0, 3, 0], [6, 5, 4, 7, 4]]
    return model, prompts.from_ids(clean, corrupted, [1, 5], [3, 7], model=model)


@pytest.fixture(scope="module")
def pruned(induction):
    return interventions.acdc(*induction, 0.05)


def test_the_planted_edges_that_differ_between_the_prompts_are_kept_and_no_others(pruned):
    # What the query of either head reads and where L0H0 looks is the same in both prompts. The
    # first token had nothing to copy but itself, so L1H1 also reads the value there, which differs.
    assert set(pruned.names) == {*COPIED, "input -> L1H1.v"}
    assert pruned.faithfulness > 0.9
    assert pruned.summary()["faithfulness_random"] < 0.2
    assert pruned.runs <= len(pruned.edges) + 1


def test_a_threshold_above_everything_keeps_nothing_and_of_another_loss_others(induction):
    model, pairs = induction
    assert interventions.acdc(model, pairs, 1e3, random=0).names == ()
    other = interventions.acdc(model, pairs, 0.5, metric=lambda ends: -logit_diff(ends), random=0)
    assert set(other.names) == COPIED  # that value moves neither the answer nor the foil


def test_each_cut_cost_what_running_the_circuit_says(model):
    """From 60 edges of a real model, beside runs of all layers, without what was held."""
    pairs = prompts.recall(model, n=3)
    edges = interventions.attribute_edges(model, pairs)
    start = edges.circuit(60, "greedy")
    found = interventions.acdc(model, pairs, 0.05, start=start, random=2)
    runs = Runs(model, pairs, "kl", 16)
    kept, now = start.copy(), float(runs.measure(start).mean())
    checked = 0
    for reader in range(len(runs.graph.readers) - 1, 40, -1):
        for edge in np.flatnonzero((edges.edges[:, 1] == reader) & start)[::-1]:
            if np.isnan(found.cost[edge]):
                kept[edge] = False
                continue
            kept[edge] = False
            new = float(runs.measure(kept).mean())
            assert found.cost[edge] == pytest.approx(new - now, abs=1e-3)
            checked += 1
            if found.kept[edge]:
                kept[edge] = True
            else:
                now = new
    assert checked > 10
    assert found.kept.sum() < 60
    assert not (found.kept & ~start).any()
    assert found.faithfulness > 0.5 > found.summary()["faithfulness_random"]


def test_results_come_back_equal_and_are_drawn(pruned, tmp_path):
    assert lensbench.results.load(pruned.save(tmp_path / "p")) == pruned
    assert pruned.plot().data
    assert pruned.to_frame()["kept"].sum() == 4


@pytest.mark.illtyped  # on purpose
def test_slips_are_named(induction):
    model, pairs = induction
    with pytest.raises(ConfigError, match="better"):
        interventions.acdc(model, pairs, 0.1, metric="logit_diff")
    with pytest.raises(ConfigError, match="threshold"):
        interventions.acdc(model, pairs, float("nan"))
    with pytest.raises(ConfigError, match="threshold"):
        interventions.acdc(model, pairs, "0.1")
    with pytest.raises(MismatchError, match="edges"):
        interventions.acdc(model, pairs, 0.1, start=np.ones(3, dtype=bool))
