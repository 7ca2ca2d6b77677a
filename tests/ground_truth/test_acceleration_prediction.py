"""What a store predicts of drafting is what a live run does, round by round."""

import dataclasses

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.acceleration import (
    AdaptiveThreshold,
    ConfidenceStop,
    DraftLengthFSM,
    capture_own,
    count_block_forwards,
    dynamic_exit,
    fixed_exit,
    greedy,
    lens_table,
    rates,
    scheduled_exit,
    sim_confidence,
    sim_del,
    sim_dv_threshold,
    sim_fixed,
    sim_fsm,
    similarity_table,
)
from lensbench.interventions.acceleration.study.similarity import angular_distance
from lensbench.interventions.acceleration.study.trace import expected_tokens
from tests.helpers import tiny

N = 24
TAIL = 4
"""Layers of the constructed model that write something, of six."""


def zero_tail(n_layers: int = 6, alive: int = TAIL):
    """A model whose layers from ``alive`` on add exactly nothing."""
    module = tiny("llama", seed=3, num_hidden_layers=n_layers)
    with torch.no_grad():
        for block in module.model.layers[alive:]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return lensbench.load_model(module, certify=False)


def made(model, folder, seed=0, lengths=(5, 8, 11)):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(5, model.card.d_vocab, n).tolist() for n in lengths]
    return model, prompts, capture_own(model, prompts, folder, N)


@pytest.fixture(scope="module", params=["atlas-dense", "zero tail"])
def own(request, tmp_path_factory):
    zero = request.param == "zero tail"
    model = zero_tail() if zero else lensbench.load_model("atlas-dense", certify=False)
    return made(model, tmp_path_factory.mktemp("own") / "store")


@pytest.fixture(scope="module")
def tail(tmp_path_factory):
    return made(zero_tail(), tmp_path_factory.mktemp("tail") / "store")


def test_the_rounds_of_a_fixed_exit_are_those_of_the_live_run(own) -> None:
    model, prompts, store = own
    with count_block_forwards(model) as blocks:
        table = lens_table(store, model)
        found = {(e, g): sim_fixed(table, e, g) for e in (1, 2, model.n_layers) for g in (1, 3, 6)}
        assert blocks.count == 0
    assert table.ties() == 0
    for (exit_layer, draft), traces in found.items():
        for prompt, trace in zip(prompts, traces, strict=True):
            live = fixed_exit(model, prompt, exit_layer, draft, N)
            assert trace.rounds == live.rounds, (exit_layer, draft)
            assert trace.exact
            assert trace.n_prompt == len(prompt)


def test_the_counter_sees_blocks_that_run(tail) -> None:
    model, prompts, _ = tail
    with count_block_forwards(model) as blocks:
        greedy(model, prompts[0], 3)
    assert blocks.count == 3 * model.n_layers


def test_layers_that_add_nothing_agree_and_draft_what_is_kept(tail) -> None:
    model, _, store = tail
    table, turned = lens_table(store, model), similarity_table(store, model)
    assert table.agrees[TAIL - 1 :, table.new].all()
    assert float(table.kl[TAIL - 1 :].max()) == 0.0
    assert np.abs(turned.influence[TAIL:]).max() < 1e-12
    assert turned.influence[:TAIL].min() > 1e-4
    for layer in range(TAIL, model.n_layers):
        assert turned.angular[layer, 1] < 1e-7
    np.testing.assert_allclose(turned.halves[:, TAIL:], 1.0, atol=1e-12)
    np.testing.assert_allclose(turned.ratios[:, TAIL:], 1.0, atol=1e-12)
    for draft in (1, 3, 6):
        for trace in sim_fixed(table, TAIL, draft):
            whole = [r for r in trace.rounds if r.drafted == draft]
            assert whole
            assert all(r.accepted == draft for r in whole)
            assert trace.accepted == trace.drafted
    early = rates(sim_fixed(table, 1, 3))
    assert early.acceptance < 1  # layers that do something do not agree by themselves


def test_del_stays_at_the_first_layer_that_says_it_all(tail) -> None:
    model, _, store = tail
    for trace in sim_del(lens_table(store, model)):
        assert (trace.rounds[0].exit_layer, trace.rounds[0].drafted) == (1, 1)
        assert {r.exit_layer for r in trace.rounds[1:] if r.drafted} == {TAIL}


def test_exit_layers_and_kept_tokens_of_del_are_those_of_the_live_run(own) -> None:
    model, prompts, store = own
    drafted = 0
    for prompt, trace in zip(prompts, sim_del(lens_table(store, model)), strict=True):
        live = dynamic_exit(model, prompt, N)
        kept = [(r.exit_layer, r.accepted) for r in live.rounds]
        assert [(r.exit_layer, r.accepted) for r in trace.rounds] == kept
        for told, most, real in zip(trace.rounds, trace.most_drafted, live.rounds, strict=True):
            assert told.drafted <= real.drafted <= most
        drafted += sum(
            r.drafted == m for r, m in zip(trace.rounds, trace.most_drafted, strict=True)
        )
    assert drafted > 0


@pytest.mark.parametrize("exit_layer", [1, 3])
@pytest.mark.parametrize(
    ("simulate", "rule"),
    [
        (lambda t, e: sim_confidence(t, e, 0.5, 8), lambda: ConfidenceStop(0.5, 8)),
        (lambda t, e: sim_fsm(t, e, 4), lambda: DraftLengthFSM(4)),
        (lambda t, e: sim_dv_threshold(t, e, 0.55), lambda: AdaptiveThreshold(0.55)),
    ],
    ids=["confidence", "fsm", "draft and verify"],
)
def test_rules_keep_what_the_live_run_keeps_and_bound_what_it_drafts(
    own, exit_layer, simulate, rule
) -> None:
    model, prompts, store = own
    for prompt, trace in zip(prompts, simulate(lens_table(store, model), exit_layer), strict=True):
        live = scheduled_exit(model, prompt, exit_layer, rule(), N)
        rows = list(zip(trace.rounds, trace.most_drafted, live.rounds, strict=False))[: trace.known]
        assert [r.accepted for r, _, _ in rows] == [r.accepted for _, _, r in rows]
        assert all(r.drafted <= real.drafted <= most for r, most, real in rows)
        if trace.known == len(trace.rounds):
            assert len(live.rounds) == len(trace.rounds)


def test_other_text_is_refused_and_its_proxy_is_wrong(tmp_path) -> None:
    model = lensbench.load_model("atlas-dense", certify=False)
    rng = np.random.default_rng(1)
    texts = [rng.integers(5, model.card.d_vocab, 20).tolist() for _ in range(3)]
    sites = ["blocks.0.resid_pre", "blocks.*.resid_post"]
    store = lensbench.capture(
        model, texts, sites, out=tmp_path / "s", layout="pad", dtype="float32"
    )
    table = lens_table(store, model)
    with pytest.raises(MismatchError, match="capture_own") as refusal:
        sim_fixed(table, 2, 3)
    assert "exact=False" in str(refusal.value)
    proxy = sim_fixed(table, 2, 3, exact=False)
    live = [fixed_exit(model, t[:1], 2, 3, 19) for t in texts]
    assert [t.rounds for t in proxy] != [run.rounds for run in live]


def test_half_precision_is_refused_and_edited_text_is_found_out(tmp_path) -> None:
    model, prompts, _ = made(zero_tail(), tmp_path / "a")
    rough = capture_own(model, prompts, tmp_path / "b", N, dtype="float16")
    with pytest.raises(MismatchError, match="float32"):
        sim_fixed(lens_table(rough, model), 2, 3)
    other = zero_tail(alive=TAIL - 1)
    texts = [[*p, *greedy(other, p, N).new] for p in prompts]
    sites = ["blocks.0.resid_pre", "blocks.*.resid_post"]
    from lensbench.harvest import Text

    rows = [np.array(t) for t in texts]
    entry = {"kind": "own-greedy", "model": model.card.fingerprint, "fingerprint": "x",
             "prompt_lengths": [len(p) for p in prompts], "max_new_tokens": N}  # fmt: skip
    text = Text(entry, lambda: iter(rows), given_as_ids=True, masked=True, layout="pad")
    forged = lensbench.capture(model, text, sites, out=tmp_path / "c", layout="pad",
                               context=64, dtype="float32")  # fmt: skip
    with pytest.raises(MismatchError, match="not this model's greedy text"):
        lens_table(forged, model)


def test_stored_states_are_taken_before_the_final_norm(tmp_path) -> None:
    """hidden_states[-1] of transformers is normed, so its block influence is another number."""
    module = tiny("llama", seed=5)
    with torch.no_grad():  # a weight that only scales all axes alike would leave the angle as it is
        module.model.norm.weight.copy_(torch.linspace(0.2, 3.0, module.config.hidden_size))
    model, _, store = made(lensbench.load_model(module, certify=False), tmp_path / "s")
    ours = similarity_table(store, model).influence[-1]
    found = []
    for sequence in store.sequences(1):
        with torch.no_grad():
            hidden = module(sequence.tokens.ids, output_hidden_states=True).hidden_states
        block = model.run(sequence.tokens, capture="blocks.2.resid_post", logits="none")
        before, after = hidden[-2][0].double(), block.acts["blocks.2.resid_post"][0].double()
        cosine = lambda a, b: torch.cosine_similarity(a, b, dim=-1)  # noqa: E731
        found.append((cosine(before, hidden[-1][0].double()), cosine(before, after)))
    theirs, right = (float(1 - torch.cat(part).mean()) for part in zip(*found, strict=True))
    assert ours == pytest.approx(right, abs=1e-6)
    assert abs(ours - theirs) > 0.01


def test_an_angle_of_equal_vectors_is_zero_and_never_nan() -> None:
    x = np.random.default_rng(0).standard_normal((96, 64)).astype(np.float32)
    same = angular_distance(x, x)
    assert np.isfinite(same).all()
    assert float(same.max()) < 1e-7
    assert angular_distance(x, -x) == pytest.approx(np.ones(96), abs=1e-7)
    assert float(angular_distance(np.zeros(4), np.zeros(4))) == 0.0
    cosine = (x * x).sum(-1) / (np.linalg.norm(x, axis=-1) ** 2)
    with np.errstate(invalid="ignore"):
        naive = np.arccos(cosine)
    assert np.isnan(naive).any() or naive.max() > 1e-4  # what float32 alone gives


def test_a_random_model_agrees_only_at_its_end(tmp_path) -> None:
    model, _, store = made(
        lensbench.load_model(tiny("llama", seed=8, num_hidden_layers=6), certify=False),
        tmp_path / "s",
    )
    table = lens_table(store, model)
    assert table.agrees[-1, table.new].all()
    assert table.agrees[0, table.new].mean() < 0.5


def test_tokens_of_a_round_follow_the_formula_on_a_chain_of_independent_drafts() -> None:
    rng = np.random.default_rng(0)
    for draft in (1, 2, 4, 8):
        kept = rng.random((200_000, draft)) < 0.789
        measured = (np.cumprod(kept, 1).sum(1) + 1).mean()
        assert measured == pytest.approx(expected_tokens(0.789, draft), rel=0.02)
    assert expected_tokens(1.0, 6) == 7


def test_a_table_comes_back_from_disk_the_same_and_predicts_the_same(tail, tmp_path) -> None:
    model, _, store = tail
    table = lens_table(store, model)
    again = lensbench.results.load(table.save(tmp_path / "t"))
    assert again == table
    assert sim_fixed(again, 2, 3) == sim_fixed(table, 2, 3)
    assert set(table.to_frame()["exit_layer"]) == set(range(1, model.n_layers + 1))
    broken = dataclasses.replace(table, best=np.roll(table.best, 1, axis=1))
    assert sim_fixed(broken, 2, 3) != sim_fixed(table, 2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _m, t, _p: sim_fixed(t, 0), "exit_layer"),
        (lambda _m, t, _p: sim_fixed(t, 7), "1 to 6"),
        (lambda _m, t, _p: sim_fixed(t, 2, 0), "draft"),
        (lambda _m, t, _p: sim_confidence(t, 2, -1.0), "threshold"),
        (lambda _m, t, _p: t.confidence("sureness"), "softmax_max"),
        (lambda _m, t, _p: t.document(9), "no document 9"),
        (lambda m, _t, p: capture_own(m, [], p), "at least one prompt"),
        (lambda m, _t, p: capture_own(m, [[3] * 60], p, 10), "do not fit"),
        (lambda m, _t, p: capture_own(m, [[3, 4]], p, 0), "max_new_tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(tail, tmp_path, call, words) -> None:
    model, _, store = tail
    with pytest.raises(ConfigError, match=words):
        call(model, lens_table(store, model), tmp_path / "x")
