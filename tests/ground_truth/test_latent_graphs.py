"""Graphs of latents add up, find what was planted, and say what the model does when edges are cut.

Tolerances, seeds and sizes were fixed before the first run.
"""

import json

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError, MismatchError
from tests.graph_worlds import (
    BYSTANDER,
    CAUSE,
    EFFECT,
    autoencoder,
    planted,
    random_model,
    small_graph,
    transcoder,
)

PROMPT = [1, 4, 2, 7, 3]


def graph_of(dtype: torch.dtype = torch.float64, **more):
    from lensbench.interventions import attribution_graph

    coders = {layer: transcoder(layer, dtype=dtype) for layer in range(3)}
    return attribution_graph(random_model(dtype=dtype), PROMPT, coders, **more)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_effects_and_bias_add_up_to_every_target(dtype: torch.dtype, most: float) -> None:
    graph = graph_of(dtype)
    assert graph.are("latent").sum() > 50  # not empty
    assert graph.gap() < most


def test_without_errors_the_sums_fail() -> None:
    graph = graph_of()
    assert graph.gap(without="error") > 0.1
    assert graph_of(errors=False).gap() > 0.1
    assert graph.gap(without="embedding") > 0.1


def test_a_skip_connection_is_a_path_of_its_own() -> None:
    from lensbench.interventions import attribution_graph

    model = random_model()
    coders = {layer: transcoder(layer, skip=layer == 1) for layer in range(3)}
    graph = attribution_graph(model, PROMPT, coders)
    assert graph.gap() < 1e-9
    with pytest.raises(ConfigError, match="skip"):
        graph.verify(model, hold=True)


def test_autoencoders_of_the_stream_and_of_attention_add_up() -> None:
    from lensbench.interventions import attribution_graph

    sites = ("blocks.0.resid_post", "blocks.1.attn_out", "blocks.2.resid_mid")
    graph = attribution_graph(random_model(), PROMPT, [autoencoder(s) for s in sites])
    assert graph.gap() < 1e-9
    assert set(graph.read) - {""} == set(sites)
    # a residual dictionary stands between the embeddings and all that is behind it
    later = np.array([r.startswith(("blocks.1", "blocks.2")) for r in graph.read])
    assert not graph.adjacency[np.ix_(later, graph.are("embedding"))].any()
    assert graph.adjacency[np.ix_(later, np.array(graph.write) == sites[0])].any()


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen3"])
def test_sums_hold_in_other_families(family: str) -> None:
    import lensbench
    from lensbench.interventions import attribution_graph
    from tests.helpers import random_ids, tiny

    model = lensbench.load_model(tiny(family), certify=False)
    coders = {i: transcoder(i, d=32, dtype=torch.float32) for i in (0, 2)}  # none in layer 1
    graph = attribution_graph(model, random_ids(1, 6), coders)
    assert graph.gap() < 1e-4 * np.abs(graph.value).max()
    ours = graph.are("error") & (np.array(graph.write) == "blocks.1.mlp_out")
    whole = model.run(random_ids(1, 6), capture="blocks.1.mlp_out").acts["blocks.1.mlp_out"][0]
    np.testing.assert_allclose(graph.written[ours], whole.numpy(), rtol=1e-5, atol=1e-5)


def test_a_model_that_is_not_linear_when_held_is_refused() -> None:
    """Gemma 2 has norms after attention, whose scale is no site, and a soft cap on its logits."""
    import lensbench
    from lensbench.interventions import attribution_graph
    from tests.helpers import random_ids, tiny

    model = lensbench.load_model(tiny("gemma2"), certify=False)
    coder = transcoder(0, d=32, dtype=torch.float32)
    with pytest.raises(ConfigError, match="do not add up"):
        attribution_graph(model, random_ids(1, 6), {0: coder})


def test_latents_beyond_the_limit_count_as_error() -> None:
    graph, whole = graph_of(max_latents=30), graph_of()
    assert graph.are("latent").sum() == 30
    assert graph.config["left_out"] == whole.are("latent").sum() - 30
    assert graph.gap() < 1e-9


def test_the_batch_does_not_matter() -> None:
    np.testing.assert_allclose(graph_of(batch_size=3).adjacency, graph_of().adjacency, atol=1e-12)


def test_the_planted_cause_is_the_only_latent_behind_the_effect() -> None:
    from lensbench.interventions import attribution_graph

    model, coders = planted()
    graph = attribution_graph(model, [2, 1], coders)
    effect = graph.node("latent", layer=1, position=1, latent=EFFECT)
    cause = graph.node("latent", layer=0, position=1, latent=CAUSE)
    graph.node("latent", layer=0, position=1, latent=BYSTANDER)  # it is active, yet does nothing
    latents = graph.are("latent")
    assert np.flatnonzero(np.abs(graph.adjacency[effect] * latents) > 1e-6).tolist() == [cause]
    assert graph.adjacency[effect, cause] == pytest.approx(1.0, abs=1e-4)
    assert np.abs(graph.adjacency[:, graph.are("error")]).max() < 1e-4  # nothing is missed
    assert graph.replacement_score == pytest.approx(1.0, abs=1e-3)


def test_control_a_shuffled_decoder_has_no_such_edge() -> None:
    from lensbench.interventions import attribution_graph

    model, coders = planted(shuffled=True)
    graph = attribution_graph(model, [2, 1], coders)
    effect = graph.node("latent", layer=1, position=1, latent=EFFECT)
    cause = graph.node("latent", layer=0, position=1, latent=CAUSE)
    assert graph.adjacency[effect, cause] == pytest.approx(0.0, abs=1e-5)
    assert graph.gap() < 1e-4  # the sums hold all the same: what is missed is in the errors
    assert np.abs(graph.adjacency[effect, graph.are("error")]).max() > 0.5
    assert graph.replacement_score < 0.9


def test_edges_are_what_cutting_them_does_with_everything_else_held() -> None:
    check = graph_of().verify(random_model(), top=20, random=20, hold=True)
    assert check.error < 1e-9
    assert check.correlation() == pytest.approx(1.0)
    assert abs(check.correlation("other")) < 0.5


def test_in_the_free_model_planted_edges_are_confirmed() -> None:
    from lensbench.interventions import attribution_graph

    model, coders = planted()
    graph = attribution_graph(model, [2, 1], coders)
    check = graph.verify(model, top=10, random=10)
    np.testing.assert_allclose(check.measured, check.total, atol=1e-3)
    # the cause reaches the logit through the effect alone
    assert not any(n.startswith("L0 mlp_out @1 #0 -> logit") for n in check.names)
    out = np.zeros((2, graph.n_nodes), dtype=bool)
    out[1, graph.node("latent", layer=0, latent=CAUSE)] = True
    from lensbench.interventions.graphs.check import total_effects
    from lensbench.interventions.graphs.taken import values_without

    values = values_without(model, graph, out)
    answer = graph.node("logit", latent=5)
    cause = graph.node("latent", layer=0, latent=CAUSE)
    assert graph.adjacency[answer, cause] == pytest.approx(0.0, abs=1e-5)
    through = total_effects(graph)[answer, cause]
    assert through == pytest.approx(values[0, answer] - values[1, answer], abs=1e-3)
    assert values[0, answer] > 1.0
    assert values[1, answer] == pytest.approx(0.0, abs=1e-4)


def test_a_circuit_of_the_two_planted_latents_is_faithful() -> None:
    from lensbench.interventions import attribution_graph

    model, coders = planted()
    graph = attribution_graph(model, [2, 1], coders)
    curve = graph.faithfulness(model, [0, 1, 2, int(graph.are("latent").sum())], random=6)
    np.testing.assert_allclose(curve.faithfulness[[0, 2, 3]], [0, 1, 1], atol=1e-3)
    np.testing.assert_allclose(curve.completeness[2:], 1.0, atol=1e-3)
    assert curve.random_faithfulness[1].mean() < 0.5
    assert curve.summary()["latents_for_0.8"] == 2


def test_influence_of_the_small_graph_is_exact() -> None:
    from lensbench.interventions.graphs.influence import edge_influence, kept, node_influence

    adjacency, weights = small_graph(), np.eye(12)[11]
    found = node_influence(adjacency, weights)
    expected = [1 / 12, 1 / 3, 0, 1 / 4, 0, 0, 1 / 3, 0, 1 / 4, 1 / 4, 1 / 6, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    smaller = adjacency.copy()
    smaller[0, 9] = smaller[3, 0] = 0
    edges = edge_influence(smaller, weights)
    np.testing.assert_allclose(edges[11, [1, 3, 6, 8]], 1 / 4)
    np.testing.assert_allclose(edges[3, [1, 6]], 1 / 8)
    np.testing.assert_allclose(edges[1, [9, 10]], 3 / 16)
    assert edges.sum() == pytest.approx(1 + 2 / 8 + 6 / 16)
    assert np.flatnonzero(kept(found, 0.8)).tolist() == [1, 3, 6, 8, 9]


def test_influence_is_the_sum_over_paths() -> None:
    from lensbench.interventions.graphs.influence import node_influence, shares

    rng = np.random.default_rng(0)
    adjacency = np.tril(rng.standard_normal((9, 9)), -1)
    weights, n = rng.random(9), shares(adjacency)
    series = sum(weights @ np.linalg.matrix_power(n, p) for p in range(1, 10))
    np.testing.assert_allclose(node_influence(adjacency, weights), series, atol=1e-12)


def test_pruning_leaves_no_node_that_leads_nowhere() -> None:
    graph = graph_of()
    node, edge = graph.prune(0.8, 0.98)
    inner = node & graph.are("latent")
    assert 0 < inner.sum() < graph.are("latent").sum()
    assert edge.any(0)[inner].all()
    assert edge.any(1)[inner].all()
    assert edge.any(0)[node & graph.are("error")].all()
    assert node[graph.are("embedding", "logit")].all()
    all_nodes, all_edges = graph.prune(1.0, 1.0)
    assert all_nodes.sum() > node.sum()
    assert all_edges.sum() > edge.sum()


def test_what_hangs_in_the_air_is_pruned_step_by_step() -> None:
    from lensbench.interventions.graphs.influence import prune

    weights, logit = np.eye(12)[11], np.arange(12) == 11
    sources = np.isin(np.arange(12), [6, 8, 9, 10])  # nothing goes into these
    node, edge = prune(small_graph(), weights, logit, ~sources & ~logit)
    assert np.flatnonzero(node).tolist() == [1, 3, 6, 8, 9, 11]
    assert {(int(t), int(s)) for t, s in np.argwhere(edge)} == {
        (11, 1), (11, 3), (11, 6), (11, 8), (3, 1), (3, 6), (1, 9)
    }  # fmt: skip
    # were they latents, they would come from nowhere, then node 1 and 3, which read only them
    node, edge = prune(small_graph(), weights, logit, ~logit)
    assert np.flatnonzero(node).tolist() == [11]
    assert not edge.any()


def test_logits_are_the_fewest_with_the_probability() -> None:
    graph = graph_of()
    chance = graph.probability[graph.are("logit")]
    assert chance.sum() >= 0.95 or len(chance) == 10
    assert chance[:-1].sum() < 0.95
    assert graph_of(max_logits=2).are("logit").sum() == 2


def test_a_graph_goes_to_disk_and_to_json(tmp_path) -> None:
    from lensbench.results import load

    graph = graph_of(torch.float32)
    assert load(graph.save(tmp_path / "graph")) == graph
    again = load(tmp_path / "graph")  # holds all it needs to be verified
    assert again.verify(random_model(dtype=torch.float32), top=5, random=5).error >= 0
    document = json.loads(graph.export(tmp_path / "graph.json").read_text())
    numbers = {node["id"] for node in document["nodes"]}
    assert document["format"] == "lensbench.latent_graph"
    assert document["schema"] == 1
    assert {e[k] for e in document["edges"] for k in ("source", "target")} <= numbers
    assert len(document["edges"]) == len(graph.to_frame()) > 0
    first = document["edges"][0]
    assert first["effect"] == pytest.approx(graph.adjacency[first["target"], first["source"]])
    assert document["scores"]["replacement"] == graph.replacement_score
    figure = graph.plot()
    assert {t.name for t in figure.data if t.name} >= {"latent", "error", "embedding", "logit"}
    assert len(graph.nodes_frame()) == graph.n_nodes


def test_what_cannot_be_a_graph_is_refused() -> None:
    from dataclasses import replace

    from lensbench.interventions import attribution_graph

    model = random_model()
    with pytest.raises(ConfigError, match="needs a dictionary"):
        attribution_graph(model, PROMPT, {})
    with pytest.raises(ConfigError, match="W_enc"):
        attribution_graph(model, PROMPT, {0: object()})
    with pytest.raises(MismatchError, match="vectors of 8"):
        attribution_graph(model, PROMPT, {0: transcoder(0, d=8)})
    with pytest.raises(ConfigError, match="MLP lies before"):
        attribution_graph(model, PROMPT, [autoencoder("blocks.1.mlp_out")])
    with pytest.raises(ConfigError, match="two dictionaries"):
        attribution_graph(model, PROMPT, [
            autoencoder("blocks.1.resid_post"), autoencoder("blocks.1.resid_post")
        ])  # fmt: skip
    with pytest.raises(MismatchError, match="trained at"):
        attribution_graph(model, PROMPT, {"blocks.0.resid_mid": autoencoder("blocks.0.resid_post")})
    with pytest.raises(ConfigError, match="one prompt"):
        attribution_graph(model, [PROMPT, PROMPT], {0: transcoder(0)})
    silent = replace(transcoder(0), b_enc=torch.full((20,), -1e3).double())
    with pytest.raises(ConfigError, match="no latent"):
        attribution_graph(model, PROMPT, {0: silent})
    with pytest.raises(ConfigError, match="probability"):
        attribution_graph(model, PROMPT, {0: transcoder(0)}, probability=0.0)
    graph = attribution_graph(model, PROMPT, {0: transcoder(0)})
    with pytest.raises(ConfigError, match="latents up to"):
        graph.faithfulness(model, [10_000])
    with pytest.raises(ConfigError, match="share"):
        graph.prune(0.0)
    with pytest.raises(MismatchError, match="fingerprint"):
        graph.verify(random_model(layers=2))


def topk_graph():
    """A model, a transcoder of layer 0, a TopK autoencoder behind it, and their graph."""
    from lensbench.interventions import attribution_graph

    model, site = random_model(), "blocks.1.resid_post"
    coders = {0: transcoder(0), site: autoencoder(site)}
    return model, coders, attribution_graph(model, PROMPT, coders)


def without_all_latents(model, graph):
    """Values with every latent taken out, of both dictionaries."""
    from lensbench.interventions.graphs.taken import values_without

    return values_without(model, graph, graph.are("latent")[None])[0]


def test_what_a_topk_latent_is_after_a_removal_is_its_dictionary_s_own_code() -> None:
    """Others of the k move in, so that its own pre-activation does not say whether it is on."""
    from dataclasses import replace

    from lensbench.ops import Call
    from lensbench.plan import Edit, Plan
    from lensbench.sites import Site

    model, coders, graph = topk_graph()
    first, second = coders.values()
    listed = np.zeros((len(PROMPT), 20), dtype=bool)
    ours = graph.are("latent") & (np.array(graph.write) == "blocks.1.resid_post")
    listed[graph.position[ours], graph.latent[ours]] = True
    mask, seen = torch.as_tensor(listed), list[torch.Tensor]()

    def keep(x):
        seen.append(x)
        return x

    before = Edit(Site("mlp.in", 0), Call(keep, "keep"))
    none = Edit(Site("mlp_out", 0), Call(lambda x: x - first.encode(seen[0]) @ first.W_dec, "out"))
    top = Edit(Site("resid_post", 1),
               Call(lambda x: x - (second.encode(x) * mask) @ second.W_dec, "out"))  # fmt: skip
    logits = model.run([PROMPT], Plan((before, none, top)), logits="last").logits[0, -1]
    expected = [float(logits[int(graph.latent[i])] - logits.mean())
                for i in np.flatnonzero(graph.are("logit"))]  # fmt: skip
    found = without_all_latents(model, graph)[graph.are("logit")]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # control: by its threshold alone it is something else
    config = {k: v for k, v in graph.config.items() if k != "joint_codes"}
    by_floor = without_all_latents(model, replace(graph, config=config))[graph.are("logit")]
    assert np.abs(by_floor - expected).max() > 1e-3


def test_a_topk_graph_from_disk_asks_for_its_dictionaries(tmp_path) -> None:
    from lensbench.results import load

    model, coders, graph = topk_graph()
    again = load(graph.save(tmp_path / "graph"))
    assert again == graph
    assert again.verify(model, 5, 5, hold=True).error < 1e-9  # no code is needed
    with pytest.raises(ConfigError, match="with_codecs"):
        again.verify(model)
    with pytest.raises(ConfigError, match="with_codecs"):
        again.faithfulness(model)
    whole = again.with_codecs(model, coders)
    np.testing.assert_array_equal(without_all_latents(model, whole),
                                  without_all_latents(model, graph))  # fmt: skip
    site = "blocks.1.resid_post"
    with pytest.raises(MismatchError, match="another dictionary"):
        again.with_codecs(model, {**coders, 0: transcoder(1), site: autoencoder(site)})


def test_of_latents_that_write_alike_no_more_than_asked_are_nodes() -> None:
    from dataclasses import replace

    from lensbench.interventions import attribution_graph

    one = transcoder(0)
    twin = lambda rows, axis: torch.cat([rows, rows], axis)  # noqa: E731
    doubled = replace(one, W_enc=twin(one.W_enc, 1), b_enc=twin(one.b_enc, 0),
                      W_dec=twin(one.W_dec, 0))  # fmt: skip
    whole = attribution_graph(random_model(), PROMPT, {0: doubled})
    n = int(whole.are("latent").sum())
    graph = attribution_graph(random_model(), PROMPT, {0: doubled}, max_latents=7)
    assert graph.are("latent").sum() == 7  # odd, so that twins are parted
    assert graph.config["left_out"] == n - 7
    assert graph.gap() < 1e-9
    latents = graph.latent[graph.are("latent")]
    at = graph.position[graph.are("latent")]
    for latent, position in zip(latents, at, strict=True):  # of twins the first is kept
        assert (latents[at == position] == latent % 20).any()


def test_completeness_is_averaged_over_targets() -> None:
    """Node 3 reads 1 (a latent) and 0 (an error) alike; 1 reads 2 (embedding) 3 : 1 and 0."""
    from lensbench.interventions.graphs.influence import scores

    adjacency = np.zeros((4, 4))
    adjacency[3, [0, 1]] = 1.0
    adjacency[1, [0, 2]] = [1.0, 3.0]
    error, embedding, weights = (np.eye(4, dtype=bool)[i] for i in (0, 2, 3))
    replacement, completeness = scores(adjacency, weights.astype(float), error, embedding)
    assert replacement == pytest.approx(0.375)
    assert completeness == pytest.approx((0.5 * 1 + 0.75 * 0.5) / 1.5)
    # circuit-tracer counts the sources too (influence .625 and .375), each as 1
    assert completeness < (0.5 + 0.375 + 0.625 + 0.375) / 2.5


@pytest.mark.illtyped  # on purpose
def test_text_where_a_share_or_sizes_belong_is_refused() -> None:
    from lensbench.interventions import attribution_graph

    with pytest.raises(ConfigError, match="probability must be a share"):
        attribution_graph(random_model(), PROMPT, {0: transcoder(0)}, probability="0.9")
    with pytest.raises(ConfigError, match="max_logits"):
        attribution_graph(random_model(), PROMPT, {0: transcoder(0)}, max_logits="10")
    graph = graph_of()
    with pytest.raises(ConfigError, match="edges must be a share"):
        graph.prune(0.8, "0.98")
    for sizes in ("12", 5):
        with pytest.raises(ConfigError, match="sizes must be a list"):
            graph.faithfulness(random_model(), sizes)


@pytest.fixture(scope="module")
def atlas():
    """The bundled model, a prompt, and an autoencoder whose rows are states of other prompts."""
    import lensbench
    from lensbench import prompts
    from lensbench.saes.sae import SAE

    model = lensbench.load_model("atlas-dense")
    pairs = prompts.recall(model, 12, 0)
    site = "blocks.3.resid_post"
    states = torch.cat([model.run([list(ids)], capture=site).acts[site][0, 1:]
                        for ids in pairs.clean_ids[1:]])  # fmt: skip
    mean = states.mean(0)
    rows = torch.nn.functional.normalize(states - mean, dim=-1)
    sae = SAE(W_enc=rows.mT.contiguous(), b_enc=torch.zeros(len(rows)), W_dec=rows, b_dec=mean,
              activation="topk", k=4, metadata={"site": site})  # fmt: skip
    return model, list(pairs.clean_ids[0]), sae, pairs.answer[0]


def test_errors_on_the_bundled_model_are_what_the_dictionary_misses(atlas) -> None:
    from lensbench.interventions import attribution_graph

    model, ids, sae, answer = atlas
    graph = attribution_graph(model, ids, sae)
    x = model.run([ids], capture=sae.site).acts[sae.site][0]
    missed = (x - sae(x)).numpy()
    ours = graph.are("error") & (np.array(graph.write) == sae.site)
    np.testing.assert_allclose(graph.written[ours], missed, atol=1e-3)
    assert graph.gap() < 1e-3 * np.abs(graph.value).max()
    assert graph.gap(without="error") > 100 * graph.gap()
    assert int(graph.latent[graph.are("logit")][0]) == answer
    assert 0 < graph.completeness_score < 1


def test_on_the_bundled_model_direct_effects_are_confirmed_with_all_else_held(atlas) -> None:
    from lensbench.interventions import attribution_graph

    model, ids, sae, _ = atlas
    graph = attribution_graph(model, ids, sae)
    check = graph.verify(model, top=10, random=10, hold=True)
    assert check.correlation() > 0.99
    assert check.error < 1e-3 * np.abs(graph.value).max()
    curve = graph.faithfulness(model, [0, int(graph.are("latent").sum())], random=1)
    np.testing.assert_allclose(curve.faithfulness, [0, 1], atol=1e-6)


def test_what_a_graph_missed_is_bounded_and_a_wrong_graph_misses_more() -> None:
    """Held, edges are exact: none is missed. With effects dealt to other edges many are."""
    from dataclasses import replace

    model, graph = random_model(), graph_of()
    right = graph.verify(model, top=10, random=10_000, hold=True)
    found = right.summary()
    assert found["mean_error"] < 1e-8
    assert found["missed"] == 0
    assert found["missed_bound"] == 0  # all were tried
    assert found["called_small"] == right.n_small > 0
    some = graph.verify(model, top=10, random=20, hold=True)
    assert some.missed[0] == 0
    assert 0 < some.missed_bound < 0.3
    edges = np.argwhere(np.abs(graph.adjacency) * graph.are("latent") > 0)
    every = graph.verify(model, top=10, random=1, hold=True, large=1e9)
    assert every.n_small == len(edges) - 10  # the top are not called small
    wrong = graph.adjacency.copy()
    order = np.random.default_rng(0).permutation(len(edges))
    wrong[tuple(edges.T)] = graph.adjacency[tuple(edges[order].T)]
    bad = beside(graph, replace(graph, adjacency=wrong)).verify(
        model, top=10, random=10_000, hold=True)  # fmt: skip
    assert abs(bad.correlation()) < 0.5
    assert bad.summary()["mean_error"] > 0.05
    assert bad.missed[0] > 0
    assert bad.missed_bound > 0


def beside(graph, other):
    """Another graph with the dictionaries of this one."""
    other.__dict__["coders"] = graph.coders
    return other
