"""One capture feeds everything: results of every method from one store, and no block runs again.

Sizes are tiny on purpose: what is tested is where the numbers come from, not how good they are.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lensbench
from lensbench import probes, saes
from lensbench.errors import ConfigError, MismatchError, MissingDataError
from lensbench.interventions import experts, probe_direction, steer
from lensbench.interventions.acceleration import (
    capture_own,
    count_block_forwards,
    lens_table,
    readability,
    sim_calm,
    sim_fixed,
    similarity_table,
    without,
)
from lensbench.interventions.acceleration.study.study import acceleration_study
from lensbench.plan import skip_layers
from lensbench.probes.hd.atlas import atlas_prompts
from lensbench.results import load

NEW = 4
SITE = "blocks.3.resid_post"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The mixture of experts and one store of its own text, with everything the methods read."""
    model = lensbench.load_model("atlas-moe")
    dealt = atlas_prompts("analogy", "combination", n_train=60, n_test=15, seed=3)
    texts = [text for side in (dealt.train, dealt.validation, dealt.test) for text in side.texts]
    names = ("resid_pre", "resid_mid", "resid_post", "router.weights", "router.indices")
    sites = [str(s) for s in model.sites() if s.name in names]
    out = tmp_path_factory.mktemp("one") / "store"
    store = capture_own(model, texts, out, NEW, sites=sites)
    return SimpleNamespace(model=model, dealt=dealt, store=store, texts=texts)


@pytest.fixture(scope="module")
def made(world):
    """Every result, by name, and how many blocks ran while they were made."""
    makers = {
        "sae": sweep, "linear probe": linear, "hd probe": hyperdimensional, "lenses": lenses,
        "expert map": expert_map, "exit curves": exits,
    }  # fmt: skip
    found, ran = {}, {}
    for name, make in makers.items():
        with count_block_forwards(world.model) as counter:
            found[name] = make(world)
        ran[name] = counter.count
    return SimpleNamespace(results=found, ran=ran)


def sweep(world):
    config = saes.SweepConfig.of(
        {"architecture": "topk", "d_sae": 64, "k": [4, 8]}, {"architecture": "relu", "d_sae": 64},
        batch_size=64, tokens=1280,
    )  # fmt: skip
    runs = saes.train(world.store.source(SITE), config, progress=False, device="cpu")
    return [*runs, saes.evaluate(runs, world.store, suite="core")]


def linear(world):
    index = world.store.index()
    early = np.asarray(index.positions) < 4
    data = probes.probe_data(world.store, {"early": early}, sites=[SITE, "blocks.0.resid_pre"])
    return [probes.fit_probe(data, site=SITE), probes.probe_sweep(data, n_boot=0)]


def hyperdimensional(world):
    """Read at the last token of every prompt, the rows of which the store knows."""
    dealt, store = world.dealt, world.store
    index = store.index()
    last = np.array(store.text["prompt_lengths"]) - 1
    rows = np.flatnonzero(np.asarray(index.positions) == last[np.asarray(index.doc_ids)])
    states = probes.stored_states(store, rows)
    x = probes.ingest_layers(states, k=3)
    memory = probes.ItemMemory.random(dealt.concepts, dim=1024, pairs=2, seed=0)
    n = len(dealt.train), len(dealt.validation)
    parts = x[: n[0]], x[n[0] : sum(n)], x[sum(n) :]
    config = probes.EncoderConfig(hidden=(1.0,), max_epochs=2)
    encoder = probes.fit_encoder(
        parts[0], dealt.train.numbers(memory), memory, config,
        validation=(parts[1], dealt.validation.numbers(memory)),
    )  # fmt: skip
    return [probes.read_concepts(memory, encoder.encode(parts[2]), dealt.test, states=states)]


def lenses(world):
    store, model = world.store, world.model
    settings = {"steps": 2, "tokens_per_step": 64, "lr_scale": 1.0}
    lens = probes.train_tuned_lens(store, model, settings)
    assert lens.settings["store_fingerprint"] == store.fingerprint
    logit, tuned = (probes.logit_lens(store, model, read, max_tokens=300) for read in (None, lens))
    return [logit, tuned, probes.compare_lenses(store, model, lens, max_tokens=300)]


def expert_map(world):
    return [experts.stored_routing(world.store, world.model)]


def exits(world):
    table = lens_table(world.store, world.model)
    assert sim_fixed(table, 3, 2)
    assert sim_calm(table, 0.9)
    return [
        table,
        similarity_table(world.store, world.model),
        acceleration_study(world.model, world.store),
    ]


def test_no_block_runs_while_results_are_made_from_a_store(made) -> None:
    assert made.ran == dict.fromkeys(made.ran, 0)
    assert len(made.ran) == 6


def test_a_live_run_is_counted(world) -> None:
    """Control: the same maps from the model itself run every block, on every batch."""
    with count_block_forwards(world.model) as counter:
        experts.routing(world.model, world.texts[:3])
    assert counter.count == world.model.n_layers


def test_every_result_names_the_one_store(world, made, tmp_path) -> None:
    for name, results in made.results.items():
        for i, result in enumerate(results):
            told = (name, type(result).__name__)
            assert result.provenance.store == world.store.fingerprint, told
            folder = tmp_path / f"{name} {i}".replace(" ", "-")
            assert load(result.save(folder)).provenance.store == world.store.fingerprint, told
    kinds = {type(r).__name__ for results in made.results.values() for r in results}
    assert kinds == {
        "SAERun", "SAEEvaluation", "LinearProbe", "ProbeSweep", "HDReading", "LensTrajectory",
        "LensComparison", "RoutingMaps", "LensTable", "SimilarityTable", "AccelerationStudy",
    }  # fmt: skip


def test_the_stored_map_is_the_live_map(world, made) -> None:
    (stored,) = made.results["expert map"]
    index = world.store.index()
    ids, doc = np.asarray(index.token_ids), np.asarray(index.doc_ids)
    documents = [ids[doc == d].tolist() for d in range(world.store.n_docs)]
    # A list that ends with the padding token twice is refused by a live run.
    plain = [d for d, row in enumerate(documents) if row[-1] != row[-2]]
    assert len(plain) > 20
    live = experts.routing(world.model, [documents[d] for d in plain])
    assert live.provenance.store == ""
    np.testing.assert_array_equal(stored.select(plain).counts, live.counts)
    np.testing.assert_allclose(stored.select(plain).weights, live.weights, atol=1e-4)
    turned = [[*documents[d][1:], documents[d][0]] for d in plain]
    assert (experts.routing(world.model, turned).counts != live.counts).any()  # control
    total = stored.counts.sum(0)
    np.testing.assert_array_equal(np.diagonal(stored.together, axis1=1, axis2=2), total)
    np.testing.assert_array_equal(stored.together.sum(-1), total * stored.top_k)


def test_what_was_read_from_the_store_is_read_on_accelerated_models_too(world, made) -> None:
    """Probe, dictionary and lens of this store, as they are, on skips, routes and an early exit."""
    run, probe = made.results["sae"][0], made.results["linear probe"][0]
    lens = probes.train_tuned_lens(world.store, world.model, {"steps": 1, "tokens_per_step": 64})
    found = readability(
        world.model, world.texts[:12],
        {"no 1": skip_layers([1]), "route": without(4, [1]), "upper": skip_layers([2])},
        {"probe": probe, "latents": run.sae, "tuned": (SITE, lens),
         "logit": lambda h, _: world.model.unembed(h)},
        steer=steer(probe_direction(SITE, probe.direction()), 1.0),
    )  # fmt: skip
    same, other = found.of("route", "latents"), found.of("no 1", "latents")
    assert same == pytest.approx(other, abs=1e-5)  # a route without a layer is the plan that skips
    assert 0 < other["jaccard"] < 1
    assert found.of("no 1", "tuned")["kl"] > 0
    frame = found.headlines()
    assert (frame["shuffled"] < frame["value"]).mean() > 0.9


def test_the_hd_states_are_those_of_a_run(world) -> None:
    from lensbench.probes.hd.ingest import prompt_states, stored_states

    index = world.store.index()
    last = np.array(world.store.text["prompt_lengths"]) - 1
    rows = np.flatnonzero(np.asarray(index.positions) == last[np.asarray(index.doc_ids)])
    stored = stored_states(world.store, rows[:5])
    live = prompt_states(world.model, world.texts[:5])
    torch.testing.assert_close(stored.values, live.values, atol=1e-4, rtol=1e-4)
    assert (stored.store, live.store) == (world.store.fingerprint, "")


def test_a_fingerprint_tells_texts_and_settings_apart_and_not_sites(tmp_path) -> None:
    from tests.helpers import random_ids, tiny

    model = lensbench.load_model(tiny("llama"), certify=False)

    def make(name, sites, ids, **more):
        return lensbench.capture(
            model, ids.tolist(), sites, out=tmp_path / name, **more
        ).fingerprint

    ids = random_ids(4, 12, seed=1)
    first = make("a", ["blocks.0.resid_post"], ids)
    assert make("a", ["blocks.1.resid_post"], ids) == first
    assert make("b", ["blocks.1.resid_post"], ids) == first
    assert make("c", ["blocks.0.resid_post"], random_ids(4, 12, seed=2)) != first
    assert make("d", ["blocks.0.resid_post"], ids, dtype="float32") != first


def test_a_store_without_routing_is_refused_in_words(world, tmp_path) -> None:
    from tests.helpers import random_ids, tiny

    dense = lensbench.load_model(tiny("llama"), certify=False)
    site = ["blocks.0.resid_post"]
    store = lensbench.capture(dense, random_ids(2, 9).tolist(), site, out=tmp_path / "dense")
    with pytest.raises(ConfigError, match=r"no experts|mixture"):
        experts.stored_routing(store, dense)
    with pytest.raises(MismatchError, match="atlas-moe"):
        experts.stored_routing(store, world.model)
    bare = lensbench.capture(world.model, world.texts[:2], site, out=tmp_path / "bare")
    with pytest.raises(MissingDataError, match=r"router\.weights"):
        experts.stored_routing(bare, world.model)


def test_own_text_that_ends_with_the_padding_token_is_captured(tmp_path) -> None:
    """A model may write the token that pads others, twice even; it is text all the same."""
    from tests.helpers import random_ids, tiny

    module = tiny("llama", pad_token_id=0)
    with torch.no_grad():
        module.lm_head.weight.zero_()  # so that token 0 is always written
    model = lensbench.load_model(module, certify=False)
    store = capture_own(model, random_ids(2, 5), tmp_path / "own", 3)
    assert store.n_tokens == 16
    assert np.asarray(store.index().token_ids).reshape(2, 8)[:, 5:].tolist() == [[0] * 3] * 2
    assert lens_table(store, model).target.tolist().count(0) == 6
