"""Shares of a latent add up at every level, find what was planted, and are what removals do.

Tolerances, seeds and sizes were fixed before the first run.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError, MismatchError
from tests.graph_worlds import random_model, transcoder
from tests.helpers import random_ids, tiny
from tests.induction_circuit import BEFORE, GUESS, INDUCTION, PREVIOUS, D, N, induction_model

PROMPT = [1, 4, 2, 7, 3]
SITES = ("blocks.2.attn.z", "blocks.2.attn_out", "blocks.2.resid_mid", "blocks.2.resid_post")


def sae(site: str, d: int = 16, n: int = 20, *, dtype=torch.float64):
    """A TopK autoencoder of drawn weights."""
    from lensbench.saes.sae import SAE

    rng = torch.Generator().manual_seed(7 + sum(map(ord, site)))
    draw = lambda *shape: (torch.randn(*shape, generator=rng) * 0.4).to(dtype)  # noqa: E731
    return SAE(W_enc=draw(d, n), b_enc=draw(n), W_dec=draw(n, d), b_dec=draw(d),
               activation="topk", k=5, metadata={"site": site})  # fmt: skip


def dfa(*args, **more):
    from lensbench.interventions import direct_feature_attribution

    return direct_feature_attribution(*args, **more)


def in_float64(module):
    """The module in float64, RMS norms too (those of transformers compute in float32)."""
    for name, child in list(module.named_modules()):
        if type(child).__name__.endswith("RMSNorm"):
            norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
            norm.weight = child.weight
            module.set_submodule(name, norm)
    return module.double()


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("upstream", [False, True])
def test_shares_add_up_at_every_level(site: str, upstream: bool) -> None:
    codecs = {0: transcoder(0, skip=True), 1: transcoder(1), "blocks.1.attn.z":
              sae("blocks.1.attn.z"), "blocks.0.attn_out": sae("blocks.0.attn_out")}  # fmt: skip
    found = dfa(random_model(), sae(site), PROMPT, 3, depth=4, codecs=codecs if upstream else None)
    assert found.depth >= 3
    assert max(found.gap(level) for level in range(1, found.depth + 1)) < 1e-9
    assert np.abs(found.share).max() > 0.1  # not all 0
    kinds = set(found.node_kind)
    assert kinds >= ({"latent", "error", "skip"} if upstream else {"head", "mlp", "embedding"})


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "qwen2", "phi3"])
def test_shares_add_up_in_other_architectures(family: str) -> None:
    """Grouped values, RMS norms, parallel blocks, fused projections; read off, not looked up."""
    import lensbench

    model = lensbench.load_model(in_float64(tiny(family)), certify=False)
    if family == "llama":
        assert model.card.n_kv_heads < model.card.n_heads
    ids = random_ids(1, 6)
    for site in ("blocks.2.attn.z", "blocks.2.attn_out", "blocks.2.resid_post"):
        codecs = {0: transcoder(0, d=32), "blocks.1.attn_out": sae("blocks.1.attn_out", 32)}
        found = dfa(model, sae(site, 32), ids, 3, depth=3, codecs=codecs, width=4)
        assert found.depth == 3
        assert max(found.gap(level) for level in (1, 2, 3)) < 1e-9
        assert found.verify(model, 10, 10).error < 1e-9
    read = dfa(model, {1: transcoder(1, d=32)}, ids, 3, depth=3)  # reads behind a norm
    assert max(read.gap(level) for level in range(1, read.depth + 1)) < 1e-9
    assert read.verify(model, 10, 10).error < 1e-9


def test_transformers_own_rms_norms_leave_their_rounding() -> None:
    """They compute in float32 whatever they are given; the sums are then good to that."""
    import lensbench

    model = lensbench.load_model(tiny("llama").double(), certify=False)
    found = dfa(model, sae("blocks.2.attn.z", 32), random_ids(1, 6), 3, depth=3)
    assert found.gap(1) < 1e-9  # no norm lies between values and the latent
    assert found.gap(3) < 1e-5


def test_shares_of_heads_and_sources_are_the_formulas() -> None:
    """By head z_h . W_enc[h]; by source sum_h A_h[dst, src] v_h[src] . W_enc[h]."""
    model, coder, latent = random_model(), sae("blocks.2.attn.z"), 3
    found = dfa(model, coder, PROMPT, latent)
    sites = [f"blocks.2.attn.{name}" for name in ("z", "v", "pattern")]
    z, v, pattern = (model.run([PROMPT], capture=sites).acts[s][0] for s in sites)
    towards = coder.W_enc[:, latent].reshape(4, 4)
    heads = found.by("head")
    ours = heads[heads["head"] >= 0]["share"].to_numpy()
    np.testing.assert_allclose(ours, (z[-1] * towards).sum(-1), atol=1e-12)
    by_source = torch.einsum("hs,she,he->s", pattern[:, -1], v, towards)
    sources = found.by("source")
    ours = sources[sources["source"] >= 0]["share"].to_numpy()
    np.testing.assert_allclose(ours, by_source, atol=1e-12)
    whole = float(coder.pre_activations(z.flatten(1))[-1, latent])
    assert found.value == pytest.approx(whole, abs=1e-12)
    offset = float(coder.b_enc[latent] - coder.b_dec @ coder.W_enc[:, latent])
    assert found.summary()["bias"] == pytest.approx(offset, abs=1e-12)


def test_control_a_shuffled_pattern_breaks_the_sum(monkeypatch) -> None:
    from lensbench.interventions.graphs.build import one_row
    from lensbench.interventions.graphs.feature_maps import Frozen
    from lensbench.interventions.graphs.feature_parts import Reading, Splitter
    from lensbench.sites import Site

    model, coder, site = random_model(), sae("blocks.2.attn.z"), Site("attn.pattern", 2)
    frozen = Frozen.of(model, one_row(model, PROMPT), 3)
    shuffled = replace(frozen, acts={**frozen.acts, site: frozen.acts[site].roll(1, -1)})
    reading = Reading(Site("attn.z", 2), 4, coder.W_enc[:, 3], 0.0, own=True)
    with pytest.raises(ConfigError, match="not linear"):
        Splitter.of(shuffled, []).split(reading)
    monkeypatch.setattr(Frozen, "_check", lambda *_: None)
    gaps = [abs(sum(p.share for p in Splitter.of(f, []).split(reading))
                - float(f.acts[reading.site][4].flatten() @ reading.vector))
            for f in (frozen, shuffled)]  # fmt: skip
    assert gaps[0] < 1e-9
    assert gaps[1] > 0.05


def planted_reader(head: int, token: int):
    """Reads at layer 1 what a head brings of a token: one latent, one other that reads nothing."""
    from lensbench.saes.sae import SAE

    size = D // 4
    W_enc = torch.zeros(D, 2)
    W_enc[head * size + token, 0] = 1.0
    return SAE(W_enc=W_enc, b_enc=torch.zeros(2), W_dec=W_enc.mT.contiguous(),
               b_dec=torch.zeros(D), activation="relu",
               metadata={"site": "blocks.1.attn.z"})  # fmt: skip


def test_the_planted_head_and_source_are_all_that_the_latent_reads() -> None:
    import lensbench

    model = lensbench.load_model(induction_model(), certify=False)
    prompt = [5, 3, 8, 1, 9, 2, 8]  # the second 8 looks for what followed the first: token 1 at 3
    head = INDUCTION[1]
    found = dfa(model, planted_reader(head, 1), prompt, 0, depth=2, width=1)
    frame = found.to_frame(1)
    assert frame["part"].iloc[0] == f"L1H{head} @6<-3"
    assert frame["of_total"].iloc[0] == pytest.approx(1.0, abs=1e-3)
    assert frame["of_total"].iloc[1:].abs().max() < 1e-3
    deeper = found.to_frame(2)
    assert deeper["part"].iloc[0] == "embedding @3"  # and there the token itself
    # with the mean off: of the embedding (token and position, 2 / D) and of the whole stream
    stream = model.run([prompt], capture="blocks.1.resid_pre").acts["blocks.1.resid_pre"][0, 3]
    expected = (1 - 2 / D) / float(1 - stream.mean())
    assert deeper["of_total"].iloc[0] == pytest.approx(expected, abs=1e-3)
    # control: the latent of another token reads nothing there
    other = dfa(model, planted_reader(head, 9), prompt, 0)
    assert np.abs(other.share).max() < 0.01 * found.value + abs(other.value)
    assert abs(other.value) < 0.2 * found.value


def test_two_planted_heads_are_found_one_behind_the_other() -> None:
    """A head of layer 1 copies what the previous-token head wrote: two hops back to a token."""
    import lensbench

    module, head, size = induction_model(), 3, D // 4
    attention = module.transformer.h[1].attn
    with torch.no_grad():  # even attention (no queries), its values the token before
        attention.c_attn.weight[BEFORE, 2 * D + head * size : 2 * D + head * size + N] = torch.eye(
            N
        )
        attention.c_proj.weight[head * size : head * size + N, GUESS] = torch.eye(N)
    model = lensbench.load_model(module, certify=False)
    prompt = [5, 3, 8, 1, 9, 2]
    found = dfa(model, planted_reader(head, 8), prompt, 0, depth=3, width=1)
    node = int(np.flatnonzero(found.level == 3)[np.abs(found.share[found.level == 3]).argmax()])
    chain = [found.names[i] for i in found.path(node)]
    assert chain == ["embedding @2", f"L0H{PREVIOUS[1]} @3<-2", "L1H3 @5<-3"]
    last = found.path(node)[-1]
    assert found.share[node] == pytest.approx(found.share[last], rel=0.3)  # norms take the mean off
    assert max(found.gap(level) for level in (1, 2, 3)) < 1e-5
    assert found.verify(model, 10, 10).error < 1e-5


def test_paths_through_heads_sum_to_the_direct_effects_of_a_graph() -> None:
    """``attribution_graph`` gets them by passes backwards, without any matrix."""
    from lensbench.interventions import attribution_graph

    model, coder, site = random_model(), sae("blocks.2.attn_out"), "blocks.2.attn_out"
    coders = {0: transcoder(0), 1: transcoder(1)}
    graph = attribution_graph(model, PROMPT, {**coders, site: coder})
    target = next(i for i in np.flatnonzero(graph.are("latent"))
                  if graph.read[i] == site and graph.position[i] == 4)  # fmt: skip
    found = dfa(model, coder, PROMPT, int(graph.latent[target]), codecs=coders, depth=3,
                width=100_000)  # fmt: skip
    through = [all(found.node_kind[p] == "head" for p in found.path(i)[1:])
               for i in range(len(found.share))]  # fmt: skip
    told = found.are("latent") & np.array(through)
    checked = 0
    for source in np.flatnonzero(graph.are("latent")):
        same = (told & (found.number == graph.latent[source]) & (found.at == graph.position[source])
                & (np.array(found.site) == graph.write[source]))  # fmt: skip
        assert found.share[same].sum() == pytest.approx(graph.adjacency[target, source], abs=1e-9)
        checked += bool(same.any())
    assert checked > 20


def test_removals_are_the_shares_when_held_and_something_else_when_free() -> None:
    model = random_model()
    found = dfa(model, sae("blocks.2.resid_post"), PROMPT, 3, depth=3,
                codecs=[sae("blocks.1.attn.z")])  # fmt: skip
    check = found.verify(model, 20, 20)
    assert check.error < 1e-9
    assert check.correlation("held") == pytest.approx(1.0)
    assert abs(check.controls.values["other_parts"]) < 0.5
    assert check.gap > 0.1  # attention, norms and MLPs answer
    assert check.correlation() < 1.0
    assert sum(c == "top" for c in check.chosen) == 20
    assert {"held", "free", "share"} <= set(check.to_frame().columns)
    # random parts called small (below .1 of the pre-activation) whose free removal does .1 and more
    small = (np.abs(check.share) < 0.1 * abs(found.value)) & (np.array(check.chosen) == "random")
    large = np.abs(check.free) >= 0.1 * abs(found.value)
    assert check.missed == (int((small & large).sum()), int(small.sum()))
    assert check.missed[0] / max(1, check.missed[1]) <= check.missed_bound <= 1
    every = found.verify(model, 20, 10_000, large=1e9)
    assert every.n_small == len(every.names) - 20  # the top are not called small
    assert check.plot().data


def test_nothing_lies_between_heads_and_a_latent_of_their_own_layer() -> None:
    """So that free and held removals agree there."""
    model = random_model()
    for site in SITES[:2]:
        check = dfa(model, sae(site), PROMPT, 3).verify(model)
        assert check.error < 1e-9
        assert check.gap < 1e-9


def test_a_part_that_is_not_split_keeps_its_place_in_the_sum() -> None:
    found = dfa(random_model(), sae("blocks.2.attn.z"), PROMPT, 3, depth=3, width=2)
    assert [len(set(found.parent[found.level == k])) for k in (2, 3)] == [2, 2]
    largest = np.argsort(-np.abs(found.share * found.are("head") * (found.level == 1)))[:2]
    assert set(found.parent[found.level == 2]) == set(largest)
    assert found.frontier(1).sum() == (found.level == 1).sum()
    assert found.frontier(3).sum() == len(found.share) - 4
    children = found.share[found.parent == largest[0]].sum()
    assert children == pytest.approx(found.share[largest[0]], abs=1e-12)


def test_a_residual_dictionary_cuts_the_stream() -> None:
    model, coder = random_model(), sae("blocks.1.resid_pre")
    found = dfa(model, sae("blocks.2.resid_post"), PROMPT, 3, depth=2, width=50, codecs=[coder])
    direct = np.array(found.site)[found.level == 1]
    assert "embedding" not in np.array(found.node_kind)[found.level == 1]
    assert set(direct) == {"blocks.1.resid_pre", "blocks.1.attn.z", "blocks.1.attn_out",
                           "blocks.1.mlp_out", "blocks.2.attn.z", "blocks.2.attn_out",
                           "blocks.2.mlp_out", "blocks.2.resid_post"}  # fmt: skip
    # heads of block 1 read what leaves the dictionary, which stands where they read
    heads = found.are("head") & (np.array(found.site) == "blocks.1.attn.z")
    kinds = np.array(found.node_kind)[np.isin(found.parent, np.flatnonzero(heads))]
    assert set(kinds) == {"latent", "error", "bias"}
    assert max(found.gap(level) for level in (1, 2)) < 1e-9
    assert found.verify(model).error < 1e-9


def test_a_silent_latent_has_shares_too() -> None:
    model, coder = random_model(), sae("blocks.2.attn.z")
    z = model.run([PROMPT], capture="blocks.2.attn.z").acts["blocks.2.attn.z"][0].flatten(1)
    silent = int((coder.encode(z)[-1] == 0).nonzero()[0])
    found = dfa(model, coder, PROMPT, silent)
    assert found.activation == 0
    assert found.value == pytest.approx(float(coder.pre_activations(z)[-1, silent]), abs=1e-12)
    dead = replace(coder, b_enc=coder.b_enc - 1e3)  # no latent is active anywhere on the prompt
    assert dfa(model, dead, PROMPT, 0).value == pytest.approx(
        float(dead.pre_activations(z)[-1, 0]), abs=1e-9
    )


def test_shares_go_to_disk_frames_and_pictures(tmp_path) -> None:
    from lensbench.results import load

    model = random_model()
    found = dfa(model, sae("blocks.2.resid_post"), PROMPT, 3, depth=2, codecs={0: transcoder(0)})
    assert load(found.save(tmp_path / "shares")) == found
    assert load(tmp_path / "shares").verify(model, 5, 5).error < 1e-9  # holds all it needs
    frame = found.to_frame(2)
    assert frame["share"].sum() == pytest.approx(found.value, abs=1e-9)
    assert frame["of_total"].sum() == pytest.approx(1.0, abs=1e-9)
    assert list(frame["share"].abs()) == sorted(frame["share"].abs(), reverse=True)
    assert len(found.to_frame()) == len(found.share)
    drawn = sum(float(np.sum(trace.y)) for trace in found.plot(top=5).data)
    assert drawn == pytest.approx(found.value, abs=1e-9)  # the rest is a bar of its own
    names = [name for trace in found.plot(top=5).data for name in trace.x]
    assert len(names) == len(set(names)) == 6
    assert any(name.endswith(" others") for name in names)
    through = frame.loc[frame["level"] == 2, "through"]
    assert set(through) == {found.names[p] for p in set(found.parent[found.level == 2])}
    assert np.nansum(found.plot("heads").data[0].z) == pytest.approx(
        found.summary()["heads"], abs=1e-5
    )
    with pytest.raises(ConfigError, match="columns"):
        found.by("heads")
    with pytest.raises(ConfigError, match="level 2"):
        found.gap(3)
    for node in (-1, len(found.share)):
        with pytest.raises(ConfigError, match="nodes are 0"):
            found.path(node)


@pytest.mark.illtyped  # on purpose
def test_what_cannot_be_split_is_refused() -> None:
    import lensbench

    model = random_model()
    with pytest.raises(ConfigError, match="MLP lies before"):
        dfa(model, sae("blocks.1.mlp_out"), PROMPT, 0)
    for kind, why in (("gemma2", "a norm after attention"), ("gptj", "attn.pattern"),
                      ("deepseek_v3", "inside its values")):  # fmt: skip
        other = lensbench.load_model(tiny(kind), certify=False)
        width = other.card.n_heads * other.width("blocks.2.attn.z")
        z = sae("blocks.2.attn.z", width, dtype=torch.float32)
        with pytest.raises(ConfigError, match=why):
            dfa(other, z, random_ids(1, 6), 0, depth=3)
    with pytest.raises(ConfigError, match="two dictionaries split"):
        dfa(model, sae(SITES[3]), PROMPT, 0, codecs=[sae("blocks.1.attn.z"),
                                                      sae("blocks.1.attn_out")])  # fmt: skip
    for more, why in (({"latent": 20}, r"0\.\.19"), ({"latent": 0.5}, "latent"),
                      ({"position": 5}, "5 tokens"), ({"depth": 0}, "depth"),
                      ({"width": "all"}, "width"), ({"position": "last"}, "position")):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            dfa(model, sae(SITES[0]), PROMPT, **({"latent": 0} | more))
    with pytest.raises(ConfigError, match="2 dictionaries"):
        dfa(model, [sae(s) for s in SITES[:2]], PROMPT, 0)
    with pytest.raises(ConfigError, match="one prompt"):
        dfa(model, sae(SITES[0]), [PROMPT, PROMPT], 0)
    with pytest.raises(MismatchError, match="vectors of 8"):
        dfa(model, sae(SITES[0], 8), PROMPT, 0)
    found = dfa(model, sae(SITES[0]), PROMPT, 0)
    with pytest.raises(ConfigError, match="'top' or 'heads'"):
        found.plot("bars")
    with pytest.raises(MismatchError, match="fingerprint"):
        found.verify(random_model(layers=4))
    with pytest.raises(ConfigError, match="top and random"):
        found.verify(model, 0, 0)


def test_on_the_bundled_model_shares_add_up_and_held_removals_confirm_them() -> None:
    """An autoencoder of a late attention layer whose rows are states of other prompts."""
    import lensbench
    from lensbench import prompts
    from lensbench.saes.sae import SAE

    bundled, site = lensbench.load_model("atlas-dense"), "blocks.4.attn.z"
    pairs = prompts.recall(bundled, 12, 0)
    # in float64, as most parts of a trained model are smaller than float32's rounding
    model = lensbench.load_model(in_float64(deepcopy(bundled.module)), certify=False)
    states = torch.cat([model.run([list(ids)], capture=site).acts[site][0, 1:].flatten(1)
                        for ids in pairs.clean_ids[1:]])  # fmt: skip
    mean = states.mean(0)
    rows = torch.nn.functional.normalize(states - mean, dim=-1)
    coder = SAE(W_enc=rows.mT.contiguous(), b_enc=torch.zeros(len(rows)).double(), W_dec=rows,
                b_dec=mean, activation="topk", k=4, metadata={"site": site})  # fmt: skip
    ids = list(pairs.clean_ids[0])
    z = model.run([ids], capture=site).acts[site][0].flatten(1)
    latent = int(coder.encode(z)[-1].argmax())
    found = dfa(model, coder, ids, latent, depth=3)
    assert found.activation > 0
    assert max(found.gap(level) for level in (1, 2, 3)) < 1e-3 * found.value
    check = found.verify(model)
    assert check.error < 1e-3 * found.value
    assert check.correlation("held") > 0.99
