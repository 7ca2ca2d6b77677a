"""Attribution on one architecture of each kind: exact sums, exact patterns, exact circuits."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench import interventions, prompts
from lensbench.errors import ConfigError
from lensbench.interventions.attribution.faithful import Runs
from lensbench.interventions.attribution.gradients import Question, traced
from lensbench.interventions.metrics import METRICS
from lensbench.ops import Set
from lensbench.plan import edit
from lensbench.sites import Site
from tests.helpers import random_ids, tiny

# Learned positions; grouped keys; parallel blocks; experts; capped scores; attention sinks.
KINDS = ("gpt2", "llama", "gpt_neox", "mixtral", "gemma2", "gpt_oss")
POST_NORMS = ("gemma2", "olmo2")


def model_and_pairs(kind, *, double=False):
    module = tiny(kind)
    model = lensbench.load_model(module.double() if double else module, certify=False)
    rows = random_ids(4, 7).tolist()
    clean, corrupted = [rows[0], rows[1][:5]], [[*rows[2][:6], rows[0][6]], rows[3][:5]]
    pairs = prompts.from_ids(clean, corrupted, [5, 9], [11, 3], roles={"it": [2, 3]}, model=model)
    return model, pairs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["attn.q", "attn.k"])
def test_patterns_of_the_qk_fix_are_those_of_the_patches(kind, part):
    """Patch one q or k for real, and multiply what its pattern becomes by the same slope."""
    model, pairs = model_and_pairs(kind)
    found = interventions.attribute(
        model, pairs, part, method="atp_qk", layers=[1], positions=["it"]
    )
    site, pattern = Site(part, 1), Site("attn.pattern", 1)
    clean = model.run(pairs.clean, logits="last").logits[:, -1]
    run = traced(model, pairs.corrupted, [pattern])
    slope = run.slopes(
        Question(METRICS["logit_diff"], pairs, clean).of(run.logits).sum(), [pattern]
    )
    source = model.run(pairs.clean, capture=site).acts[site]
    width = pairs.clean.n_pos
    for i, head in enumerate(found.head):
        for row in range(2):
            at = pairs.position("it")[row]
            column = width - len(pairs.clean_ids[row]) + at
            plan = edit(site, Set(source[row, column, head]), rows=[row], positions=[at],
                        heads=[int(head)])  # fmt: skip
            now = model.run(pairs.corrupted, plan, pattern).acts[pattern][row]
            step = (now - run.acts[pattern][row].detach()) * slope[pattern][row]
            assert found.values[i, row] == pytest.approx(float(step.sum()), abs=1e-6, rel=1e-3)
    assert np.abs(found.values).max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_are_the_slopes_of_small_patches(kind):
    """A patch of a small share of the way does that share of what the slope says."""
    double = kind in ("gpt2", "llama", "gpt_neox")  # experts have no kernel in float64
    model, pairs = model_and_pairs(kind, double=double)
    share, close = (1e-3, 2e-4) if double else (1e-4, 2e-2)
    for site in ("blocks.1.resid_pre", "blocks.1.attn.z", "blocks.1.mlp_out", "blocks.0.attn.k"):
        found = interventions.attribute(model, pairs, site, positions="together", heads="together")
        states = [model.run(t, capture=site).acts[site] for t in (pairs.clean, pairs.corrupted)]
        moved = states[1] + share * (states[0] - states[1])
        ends = [model.run(pairs.corrupted, plan, logits="last").logits.double()
                for plan in (edit(site, Set(states[1])), edit(site, Set(moved)))]  # fmt: skip
        index = torch.tensor([pairs.answer, pairs.foil])
        before, after = (x[[0, 1], -1, index[0]] - x[[0, 1], -1, index[1]] for x in ends)
        real = ((after - before) / share).detach().numpy()
        assert found.values[0] == pytest.approx(real, rel=0.06, abs=close), site


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in POST_NORMS])
def test_circuits_of_all_edges_and_of_none_are_the_two_runs(kind):
    model, pairs = model_and_pairs(kind)
    runs = Runs(model, pairs, "logit_diff", 16)
    clean, corrupted = runs.ends
    n = runs.graph.n_edges
    assert runs.measure(np.ones(n, dtype=bool)) == pytest.approx(clean, abs=1e-4)
    assert runs.measure(np.zeros(n, dtype=bool)) == pytest.approx(corrupted, abs=1e-4)
    assert np.abs(clean - corrupted).min() > 1e-3
    edges = interventions.attribute_edges(model, pairs, method="eap")
    heads = interventions.attribute(model, pairs, "attn.z", positions="together")
    for i in range(len(heads.site)):
        writer = f"L{heads.layer[i]}H{heads.head[i]}"
        assert edges.of(writer) == pytest.approx(heads.values[i], abs=1e-5)


@pytest.mark.parametrize("kind", POST_NORMS)
def test_heads_that_do_not_add_up_are_refused(kind):
    model, pairs = model_and_pairs(kind)
    with pytest.raises(ConfigError, match="norm stands after"):
        interventions.attribute_edges(model, pairs)


def test_heads_that_cannot_be_told_apart_are_refused():
    model, pairs = model_and_pairs("mamba")
    with pytest.raises(ConfigError, match="graph of edges"):
        interventions.attribute_edges(model, pairs)
