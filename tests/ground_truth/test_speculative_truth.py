"""Drafts of models whose useful layers are known: what is accepted, and where DEL goes."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import Warp, greedy
from lensbench.interventions.acceleration.speculative.del_rule import DelRule
from lensbench.interventions.acceleration.speculative.dynamic import dynamic_exit, scheduled_exit
from lensbench.interventions.acceleration.speculative.schedules import (
    AdaptiveThreshold,
    ConfidenceStop,
    DraftLengthFSM,
)
from lensbench.interventions.acceleration.speculative.skip_search import search_skips
from lensbench.interventions.acceleration.speculative.skips import draft_and_verify
from lensbench.interventions.acceleration.speculative.swift import SwiftSearch, matchness, swift
from lensbench.plan import Set, edit
from lensbench.results import load
from lensbench.stats import spearman
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.atlas.world import BOS
from tests.helpers import random_ids, tiny

PROMPT = random_ids(1, 9, seed=5)
N, LAYERS, USEFUL = 40, 6, 4


def zero_tail(useful: int = USEFUL, seed: int = 4):
    """A llama of 6 random layers of which all from ``useful`` on write nothing."""
    module = tiny("llama", seed=seed, num_hidden_layers=LAYERS, max_position_embeddings=128)
    with torch.no_grad():
        for layer in module.model.layers[useful:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return lensbench.load_model(module, certify=False)


@pytest.fixture(scope="module")
def tail():
    return zero_tail()


def test_del_goes_to_the_first_layer_after_which_nothing_is_written(tail) -> None:
    rule = DelRule(LAYERS)
    found = dynamic_exit(tail, PROMPT, N, rule=rule)
    assert found.new == greedy(tail, PROMPT, N).new
    exits = [r.exit_layer for r in found.rounds if r.drafted]
    assert exits == [1] + [USEFUL] * (len(exits) - 1)
    assert rule.history[0].alpha[USEFUL - 1 :] == (1.0, 1.0)
    assert all(c.draft_length == 17 for c in rule.history)
    # No mismatch was ever seen there: tau is NaN, and drafts run to 18 or to the end of the text.
    assert math.isnan(rule.history[-1].threshold)
    assert [r.drafted for r in found.rounds[1:-1]] == [18] * (len(found.rounds) - 2)
    assert all(r.accepted == r.drafted for r in found.rounds[1:])


def test_without_a_silent_tail_del_stays_low() -> None:
    model = zero_tail(useful=LAYERS)
    rule = DelRule(LAYERS)
    found = dynamic_exit(model, PROMPT, N, rule=rule)
    assert found.new == greedy(model, PROMPT, N).new
    assert found.acceptance < 0.5


@pytest.mark.parametrize("length", [1, 9, 40])
def test_del_reads_every_layer_of_the_accepted_text_and_nothing_else(length) -> None:
    """The sums of the rule equal those of one teacher-forced pass over the finished text."""
    prompt = random_ids(1, length, seed=5)
    since = max(0, length - 32)
    rule = DelRule(LAYERS, omega=1.0)
    model = zero_tail(useful=5)
    found = dynamic_exit(model, prompt, N, rule=rule)
    text = torch.tensor([[*found.prompt, *found.new]])
    states = model.run(text, capture=[f"blocks.{n}.resid_post" for n in range(LAYERS)]).acts
    reading = torch.stack(
        [model.unembed(states[f"blocks.{n}.resid_post"])[0].argmax(-1) for n in range(LAYERS)]
    )
    until = len(found.prompt) + sum(r.accepted + 1 for r in found.rounds[:-1]) - 1
    hits = (reading[:-1, since:until] == reading[-1, since:until]).sum(1).numpy()
    np.testing.assert_array_equal(rule._counts[1], hits)
    np.testing.assert_array_equal(rule._counts.sum(0), [until - since] * (LAYERS - 1))


@pytest.mark.parametrize(
    "schedule", [DraftLengthFSM(3), AdaptiveThreshold(0.3), ConfidenceStop(0.2, 6)]
)
def test_schedules_change_the_rounds_and_not_the_text(tail, schedule) -> None:
    wanted = greedy(tail, PROMPT, N).new
    for exit_layer in (1, USEFUL):
        found = scheduled_exit(tail, PROMPT, exit_layer, schedule, N)
        assert found.new == wanted
    assert found.acceptance == 1.0


def test_the_draft_length_follows_the_rounds(tail) -> None:
    rounds = scheduled_exit(tail, PROMPT, USEFUL, DraftLengthFSM(2, most=5), N).rounds
    assert [r.drafted for r in rounds[:6]] == [2, 3, 4, 5, 5, 5]


def test_a_rule_for_another_model_is_refused(tail) -> None:
    with pytest.raises(ConfigError, match="7 layers, the model has 6"):
        dynamic_exit(tail, PROMPT, N, rule=DelRule(7))


def test_a_sampled_text_is_drafted_too(tail) -> None:
    warm = Warp(temperature=1.0, top_k=5)
    found = dynamic_exit(tail, PROMPT, N, warp=warm, seed=1)
    assert len(found.new) == N
    assert found.acceptance > 0.9  # p equals q from exit 4 on


SILENT = [(half, n) for half in ("attn", "mlp") for n in range(USEFUL, LAYERS)]
FIXED = ConfidenceStop(0.0, 5)


def test_leaving_out_what_writes_nothing_is_always_accepted(tail) -> None:
    wanted = greedy(tail, PROMPT, N).new
    found = draft_and_verify(tail, PROMPT, SILENT, N, schedule=FIXED)
    assert found.new == wanted
    assert found.acceptance == 1.0
    # A first token of the full model, then 5 + 1 a round, cut at the end.
    assert [r.drafted for r in found.rounds] == [0] + [5] * 6 + [2]
    low = draft_and_verify(tail, PROMPT, [("attn", 0), ("mlp", 0), ("attn", 1), ("mlp", 1)], N,
                           schedule=FIXED)  # fmt: skip
    assert low.new == wanted
    assert low.acceptance < 0.1


def test_a_draft_without_sublayers_runs_fewer_of_them(tail) -> None:
    found = draft_and_verify(tail, PROMPT, SILENT, N, schedule=FIXED)
    plain = greedy(tail, PROMPT, N)
    drafts = found.drafted
    assert found.counts.attention == plain.counts.attention + drafts * USEFUL
    assert found.counts.by_layer[USEFUL] == plain.counts.by_layer[USEFUL]


def test_a_draft_with_no_attention_at_all_is_checked_too(tail) -> None:
    skips = [("attn", n) for n in range(LAYERS)]
    found = draft_and_verify(tail, PROMPT, skips, N, schedule=FIXED)
    assert found.new == greedy(tail, PROMPT, N).new


def test_the_threshold_is_carried_from_text_to_text(tail) -> None:
    schedule = AdaptiveThreshold(0.0)
    draft_and_verify(tail, PROMPT, SILENT, N, schedule=schedule)
    first = schedule.threshold
    draft_and_verify(tail, PROMPT, SILENT, N, schedule=schedule)
    assert first != 0.0
    assert schedule.threshold != first


def test_the_search_finds_sublayers_that_write_nothing(tail, tmp_path) -> None:
    found = search_skips(tail, [PROMPT], max_new_tokens=12, trials=60, threshold=0.0, seed=1)
    assert found.scores[0] == pytest.approx(1.0)  # whole drafts win nothing
    assert set(found.skips) == set(SILENT)
    # 12 tokens: one of the prompt's run, then 10 drafts of 8 among 12 sublayers and one more.
    assert found.summary()["score"] == pytest.approx(12 / (1 + 1 + 10 * 8 / 12))
    assert found.scores[found.best] > found.controls.values["random sets, mean"]
    assert found.acceptance[found.best] == 1.0
    assert list(found.to_frame()["step"])[:2] == ["none", "random"]
    assert load(found.save(tmp_path)) == found
    assert found.plot().data


def test_matchness_is_one_where_nothing_or_nothing_useful_is_left_out(tail) -> None:
    text = greedy(tail, PROMPT, 33).new
    assert matchness(tail, PROMPT, text, []) == 1.0
    assert matchness(tail, PROMPT, text, SILENT) == 1.0
    assert matchness(tail, PROMPT, text, [("attn", 0), ("mlp", 0)]) < 0.5


def test_matchness_is_what_a_teacher_forced_pass_without_the_sublayers_names(tail) -> None:
    """The same number by edits of the whole text, but for the prompt's keys and values."""
    text = greedy(tail, PROMPT[:, :1], 33).new  # a prompt of one token, whose keys hardly count
    whole = torch.tensor([[int(PROMPT[0, 0]), *text]])
    plan = edit("blocks.3.mlp_out", Set(0.0))
    logits = tail.run(whole, plan).logits[0]
    share = (logits[1:-1].argmax(-1) == whole[0, 2:]).double().mean().item()
    assert matchness(tail, PROMPT[:, :1], text, [("mlp", 3)]) == pytest.approx(share, abs=0.07)


def test_swift_finds_the_planted_sublayers_on_the_way() -> None:
    module = zero_tail(LAYERS).module
    with torch.no_grad():  # half of the inner layers write nothing: 4 of 8 sublayers
        for n in (1, 4):
            module.model.layers[n].self_attn.o_proj.weight.zero_()
            module.model.layers[n].mlp.down_proj.weight.zero_()
    model = lensbench.load_model(module, certify=False)
    search = SwiftSearch(LAYERS, window=10, ratio=0.4, patience=1000, seed=0)
    prompts = [random_ids(1, 6, seed=s) for s in range(6)]
    for prompt in prompts:
        assert swift(model, prompt, 60, search=search).new == greedy(model, prompt, 60).new
    assert search.history[0][0] == {(h, n) for h in ("attn", "mlp") for n in (1, 3)}
    assert search.score == 1.0
    assert search.best <= {(h, n) for h in ("attn", "mlp") for n in (1, 4)}
    assert len(search.best) == 3  # int(8 * .4)
    assert search.over
    assert swift(model, prompts[0], 40, search=search).acceptance == 1.0


def test_the_first_candidate_is_the_initial_set_and_stays_while_nothing_is_better() -> None:
    search = SwiftSearch(6)
    initial = search.propose()
    search.report(initial, 0.5)
    worse = search.propose()
    search.report(worse, 0.4)
    assert search.best == initial
    search.report(search.propose(), 0.96)
    assert search.over
    assert all(0 < n < 5 for _, n in search.best)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: draft_and_verify(m, PROMPT, [("attn", 6)], 5), "layers 0..5"),
        (lambda m: draft_and_verify(m, PROMPT, [("ffn", 2)], 5), "attn"),
        (lambda m: search_skips(m, []), "at least one text"),
        (lambda m: search_skips(m, [PROMPT], objective="time"), "objective"),
        (lambda m: search_skips(m, [PROMPT], trials=1), "trials"),
        (lambda m: swift(m, PROMPT, 5, search=SwiftSearch(4)), "4 layers, the model has 6"),
        (lambda _: SwiftSearch(2), "at least 3 layers"),
        (lambda _: SwiftSearch(6, ratio=1.0), "ratio"),
        (lambda m: matchness(m, PROMPT, [4], []), "at least 2"),
        (lambda m: scheduled_exit(m, PROMPT, 7, FIXED), "1 to 6"),
        (lambda m: dynamic_exit(m, PROMPT, 1000), "context"),
        (lambda m: swift(m, PROMPT, 1000), "context"),
        (lambda m: draft_and_verify(m, PROMPT, [], 1000), "context"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(tail, call, words) -> None:
    with pytest.raises(ConfigError, match=words):
        call(tail)


@pytest.mark.slow
def test_matchness_orders_skip_sets_as_live_drafts_do() -> None:
    """On a trained model, over 14 random sets of 1 to 6 sublayers and 3 texts (measured: 0.950)."""
    model = lensbench.load_model("atlas-early", certify=False)
    world = Atlas()
    texts = [words for _, words in islice(world.documents("heldout", 3), 3)]
    prompts = [[[world.index[BOS], *(world.index[w] for w in words[:5])]] for words in texts]
    written = [greedy(model, p, 32).new for p in prompts]
    rng = np.random.default_rng(0)
    halves = [(half, n) for half in ("attn", "mlp") for n in range(model.n_layers)]
    one_pass, live = [], []
    for number in range(14):
        chosen = rng.choice(len(halves), 1 + number % 6, replace=False)
        skips = [halves[i] for i in chosen]
        pairs = list(zip(prompts, written, strict=True))
        one_pass.append(np.mean([matchness(model, p, new, skips) for p, new in pairs]))
        runs = [
            draft_and_verify(model, p, skips, 32, schedule=ConfidenceStop(0.0, 4)) for p in prompts
        ]
        live.append(sum(r.accepted for r in runs) / sum(r.drafted for r in runs))
    assert spearman(np.array(one_pass), np.array(live)) >= 0.8
    assert np.ptp(live) > 0.3  # there is something to order
