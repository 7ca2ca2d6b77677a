"""Effects of latents and errors, and curves of their circuits, where the circuit is known.

Thresholds and seeds were fixed before the first run.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from tests.attribution_worlds import gpt2, linear, opened, pole
from tests.graph_worlds import autoencoder, random_model

D, VOCAB, SITE = 32, 14, "blocks.0.resid_post"


def world():
    """One layer that adds nothing; a token's direction is its own logit. Prompts end in 1 or 2.

    The tokens before the last differ between the runs, so bystanders' latents move too.
    """
    from lensbench import prompts
    from lensbench.saes.sae import SAE

    module = gpt2(1, d=D, vocab=VOCAB)
    rows = torch.stack([pole(D, i) for i in range(VOCAB)])
    # Each token has a second mark of its own neighbour, which no logit reads.
    with torch.no_grad():
        module.transformer.wte.weight.copy_(rows + 0.5 * rows.roll(-6, 0))
        module.lm_head.weight[1:3] = 2 * rows[1:3]
    rng = np.random.default_rng(0)
    clean, bad = (rng.integers(3, VOCAB, (12, 3)).tolist() for _ in range(2))
    pairs = prompts.from_ids([[*b, 1] for b in clean], [[*b, 2] for b in bad],
                             [1] * 12, [2] * 12, task="copy")  # fmt: skip
    sae = SAE(W_enc=rows.mT / 2, b_enc=torch.zeros(VOCAB), W_dec=rows, b_dec=torch.zeros(D),
              activation="relu", metadata={"site": SITE})  # fmt: skip
    return opened(module), pairs, sae


PLANTED = {f"{SITE} #1", f"{SITE} #2"}
"""Logits 1 and 2 are read off latents 1 and 2 at the last token."""


def test_effects_name_the_planted_latents_and_nothing_else() -> None:
    from lensbench.interventions import latent_effects

    model, pairs, sae = world()
    found = latent_effects(model, pairs, sae)
    size = dict(zip(found.names, np.abs(found.effect), strict=True))
    planted = {name for name, x in size.items() if x > 1e-4}
    assert planted == PLANTED
    # linear, so the integral is exact and equal to the plain slope
    assert np.abs(found.completeness_gap).max() < 1e-4
    plain = latent_effects(model, pairs, sae, method="atp")
    slope = dict(zip(plain.names, plain.effect, strict=True))
    for name, x in zip(found.names, found.effect, strict=True):
        assert slope.get(name, 0.0) == pytest.approx(x, abs=1e-4)
    assert found.values.sum(0) == pytest.approx(found.clean - -found.clean, rel=1e-4)


def test_the_planted_circuit_is_faithful_and_complete_and_random_ones_are_not() -> None:
    from lensbench.interventions import circuit_curve, latent_effects

    model, pairs, sae = world()
    found = latent_effects(model, pairs, sae)
    n = len(found.latent)
    assert n == VOCAB + 1  # every token's latent moves somewhere: candidates of random circuits
    curve = circuit_curve(model, pairs, found, sae, [0, 1, 2, n])
    np.testing.assert_allclose(curve.faithfulness[[0, 2, 3]], [0, 1, 1], atol=1e-3)
    assert 0.2 < curve.faithfulness[1] < 0.8
    np.testing.assert_allclose(curve.completeness[[0, 2, 3]], [0, 1, 1], atol=1e-3)
    assert curve.random.shape[1] == 20
    assert curve.random_faithfulness[2].mean() < 0.4
    assert curve.summary()["nodes_for_0.8"] == 2
    assert curve.controls


def test_a_dictionary_without_the_direction_leaves_the_task_to_its_error() -> None:
    from lensbench.interventions import circuit_curve, latent_effects

    model, pairs, sae = world()
    wrong = sae.W_dec.clone()
    wrong[1:3] = 0
    blind = replace(sae, W_dec=wrong)
    found = latent_effects(model, pairs, blind)
    assert found.names[int(found.strongest()[0])] == f"{SITE} error"
    assert found.summary()["error_share"] > 0.99
    only = circuit_curve(model, pairs, found, blind, [1])
    np.testing.assert_allclose(only.faithfulness, 1, atol=1e-3)
    latents = replace(found, values=np.where(found.latent[:, None] == -1, 0, found.values))
    without = circuit_curve(model, pairs, latents, blind, [len(found.latent) - 1], random=0)
    np.testing.assert_allclose(without.faithfulness, 0, atol=1e-3)


@pytest.mark.parametrize("rule", ["midpoint", "left"])
def test_the_integral_is_the_one_written_out_in_plain_torch(rule) -> None:
    """A random model and dictionary: the path, its points and both nodes' slopes by hand."""
    from lensbench.interventions import latent_effects
    from lensbench.ops import Set
    from lensbench.plan import Edit, Plan

    model, pairs, sae = random_pairs()
    found = latent_effects(model, pairs, sae, base="zero", steps=4, rule=rule)
    x = model.run(pairs.clean, capture=R_SITE).acts[R_SITE].detach()
    with torch.no_grad():
        acts = sae.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        error = x - sae.decode(acts.flatten(0, 1)).unflatten(0, x.shape[:2])
    total, rest = torch.zeros_like(acts), torch.zeros_like(error)
    for k in range(4):
        share = 1 - (k + 0.5 * (rule == "midpoint")) / 4
        a, e = (share * acts).requires_grad_(), (share * error).requires_grad_()
        state = a @ sae.W_dec + sae.b_dec + e
        edit = Edit(found_site(), Set(state))
        logits = model.run(pairs.clean, Plan((edit,)), logits="last", grad=True).logits
        slopes = torch.autograd.grad(pairs.logit_diff(logits).double().sum(), [a, e])
        total += slopes[0] / 4
        rest += slopes[1] / 4
    by_hand = torch.cat([(acts * total).sum(1), (error * rest).sum((1, 2))[:, None]], 1).numpy()
    expected = by_hand[:, np.where(found.latent < 0, by_hand.shape[1] - 1, found.latent)].T
    np.testing.assert_allclose(found.values, expected, atol=1e-9, rtol=1e-5)
    assert np.abs(expected).max() > 0.01


R_SITE = "blocks.1.resid_post"


def found_site():
    from lensbench.sites import Site

    return Site.parse(R_SITE)


def random_pairs():
    from lensbench import prompts

    rng = np.random.default_rng(1)
    ids = rng.integers(0, 13, (2, 5, 6)).tolist()
    pairs = prompts.from_ids(ids[0], ids[1], [3] * 5, [4] * 5, task="random")
    return random_model(), pairs, autoencoder(R_SITE)


def test_midpoints_close_the_gap_that_left_ends_leave() -> None:
    from lensbench.interventions import latent_effects

    model, pairs, sae = random_pairs()
    gap = {
        (rule, steps): np.abs(latent_effects(
            model, pairs, sae, steps=steps, rule=rule).completeness_gap).max()
        for rule, steps in (("midpoint", 10), ("left", 10), ("midpoint", 40))
    }  # fmt: skip
    assert gap["midpoint", 40] < 0.02
    assert gap["midpoint", 10] < gap["left", 10]


def test_with_several_sites_all_nodes_are_the_clean_run_and_none_is_the_base() -> None:
    from lensbench.interventions import circuit_curve, latent_effects

    model, pairs, _ = random_pairs()
    saes = [autoencoder("blocks.0.resid_post"), autoencoder(R_SITE)]
    found = latent_effects(model, pairs, saes)
    every = len(found.latent)
    spliced = model.with_saes(saes)
    curve = circuit_curve(spliced, pairs, found, sizes=[0, every], random=1)
    bad = pairs.logit_diff(model.run(pairs.corrupted).logits).numpy()
    np.testing.assert_allclose(curve.values[0], bad, atol=1e-6)
    np.testing.assert_allclose(curve.corrupted, bad, atol=1e-6)
    # nodes without an effect are those that do not move: all listed ones are the whole
    np.testing.assert_allclose(curve.values[1], curve.clean, atol=1e-6)
    np.testing.assert_allclose(curve.rest[1], bad, atol=1e-6)
    assert abs(curve.clean - bad).min() > 1e-3


def test_edges_go_the_same_way() -> None:
    from lensbench.interventions import attribute_edges, circuit_curve

    model, pairs, _ = random_pairs()
    edges = attribute_edges(model, pairs, steps=2)
    curve = circuit_curve(model, pairs, edges, sizes=[0, len(edges.edges)], random=1)
    np.testing.assert_allclose(curve.faithfulness, [0, 1], atol=1e-6)
    np.testing.assert_allclose(curve.completeness, [0, 1], atol=1e-6)


def test_results_come_back_equal_are_drawn_and_bad_input_is_told(tmp_path) -> None:
    from lensbench.interventions import circuit_curve, latent_effects

    model, pairs, sae = world()
    found = latent_effects(model, pairs, sae, batch_size=5)
    curve = circuit_curve(model, pairs, found, sae, [1, 2], random=2, batch_size=5)
    for i, result in enumerate((found, curve)):
        assert lensbench.results.load(result.save(tmp_path / str(i))) == result
        assert result.plot().data
        assert len(result.to_frame())
        assert result.summary()
    with pytest.raises(ConfigError, match="dictionaries"):
        latent_effects(model, pairs)
    with pytest.raises(ConfigError, match="error='keep'"):
        latent_effects(model.with_saes(sae, error="drop"), pairs)
    with pytest.raises(UnknownNameError, match="zero"):
        latent_effects(model, pairs, sae, base="zeros")
    with pytest.raises(ConfigError, match="gradient"):
        latent_effects(model, pairs, sae, metric="rank")
    with pytest.raises(MismatchError, match="other dictionaries"):
        circuit_curve(model, pairs, found, replace(sae, W_dec=2 * sae.W_dec))
    with pytest.raises(ConfigError, match="up to"):
        circuit_curve(model, pairs, found, sae, [1000])
    with pytest.raises(ConfigError, match="seed"):
        circuit_curve(model, pairs, found, sae, [1], seed="x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="LatentEffects"):
        circuit_curve(model, pairs, "edges")  # pyright: ignore[reportArgumentType]


LINEAR_SITE = "blocks.1.resid_post"


def linear_effects(**options):
    """Logits linear in every latent and in the error, which is large."""
    from lensbench import prompts
    from lensbench.interventions import latent_effects

    model = linear()
    ids = np.random.default_rng(2).integers(0, 8, (2, 6, 4)).tolist()
    answers, foils = [3, 1, 0] * 2, [5, 6, 7] * 2
    pairs = prompts.from_ids(ids[0], ids[1], answers, foils, model=model)
    sae = autoencoder(LINEAR_SITE, d=32, n=40, dtype=torch.float32)
    return model, pairs, sae, latent_effects(model, pairs, sae, **options)


@pytest.mark.parametrize("base", ["corrupted", "zero"])
def test_on_a_linear_model_every_node_does_what_its_effect_says(base) -> None:
    model, pairs, sae, found = linear_effects(base=base)
    done = found.verify(model, pairs, sae, top=10, random=10_000)
    assert len(done.place) == len(found.latent)  # errors too
    assert f"{LINEAR_SITE} error" in done.place
    assert np.abs(done.measured).max() > 0.3
    np.testing.assert_allclose(done.estimated, done.measured, atol=1e-4)
    summary = done.summary()
    assert summary["mean_error"] < 1e-4
    assert summary["spearman"] > 0.999
    assert summary["slope"] == pytest.approx(1.0, abs=1e-3)
    assert summary["missed"] == 0
    assert summary["missed_bound"] == 0  # all were tried
    assert abs(summary["control_slope"]) < 0.6  # another pair's answer


def test_effects_given_to_other_nodes_are_shown_wrong() -> None:
    model, pairs, sae, found = linear_effects()
    order = np.random.default_rng(0).permutation(len(found.latent))
    wrong = replace(found, values=found.values[order])
    done = wrong.verify(model, pairs, sae, top=5, random=10_000)
    summary = done.summary()
    assert abs(summary["spearman"]) < 0.5
    assert summary["mean_error"] > 0.01
    assert summary["slope"] < 0.5
    assert summary["missed"] > 0
    assert summary["missed_bound"] > 0


def test_a_node_that_is_taken_out_leaves_later_dictionaries_free(tmp_path) -> None:
    """Two sites: the change of one latent is that of the run with only that latent set."""
    from lensbench.interventions import latent_effects
    from lensbench.interventions.graphs.effects import part_of
    from lensbench.ops import Zero
    from lensbench.plan import Edit, Plan
    from lensbench.sites import Site

    model, pairs, _ = random_pairs()
    first = Site.parse("blocks.0.resid_post")
    spliced = model.with_saes([autoencoder(str(first)), autoencoder(R_SITE)])
    found = latent_effects(spliced, pairs, base="zero", steps=20)
    done = found.verify(spliced, pairs, top=4, random=6, batch_size=2)
    assert done.chosen == ("top",) * 4 + ("random",) * 6
    clean = pairs.logit_diff(spliced.run(pairs.clean).logits)
    tried = 0
    for i, node in enumerate(done.number):
        number = int(found.latent[node])
        if found.site[node] == 0 and number >= 0:
            edit = Edit(part_of(first, "acts"), Zero(), dims=(number,))
            out = pairs.logit_diff(spliced.run(pairs.clean, Plan((edit,))).logits)
            np.testing.assert_allclose(done.measured[i], (out - clean).numpy(), atol=1e-9)
            tried += 1
    assert tried
    assert done.correlation() > 0.6
    again = lensbench.results.load(found.save(tmp_path / "f")).verify(
        spliced, pairs, top=4, random=6, batch_size=2)  # fmt: skip
    np.testing.assert_array_equal(again.measured, done.measured)
    with pytest.raises(MismatchError, match="pairs"):
        found.verify(spliced, pairs.select([0, 1]))
    with pytest.raises(MismatchError, match="dictionaries"):
        found.verify(model, pairs, autoencoder(R_SITE))
    with pytest.raises(ConfigError, match="both 0"):
        found.verify(spliced, pairs, top=0, random=0)
