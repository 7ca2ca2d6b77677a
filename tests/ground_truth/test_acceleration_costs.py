"""What a trace is said to cost is what the runner counts and what torch counts."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lensbench
from lensbench.errors import ConfigError
from lensbench.interventions.acceleration import (
    DelRule,
    ExitTrace,
    Route,
    Trace,
    decode_route,
    dynamic_exit,
    early_exit,
    fixed_exit,
    free_exit,
    greedy,
    linear_budgets,
    skip_decode,
    without,
)
from lensbench.interventions.acceleration.study.cost import LayerCosts
from lensbench.interventions.acceleration.study.layer_times import LayerTimes, time_layers
from lensbench.interventions.acceleration.study.work import (
    work_budgets,
    work_del,
    work_exits,
    work_free,
    work_plain,
    work_rounds,
    work_route,
)
from tests.helpers import random_ids, tiny

N, P = 12, 7
PROMPT = random_ids(1, P, seed=4)


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model(tiny("llama", seed=3, num_hidden_layers=5), certify=False)


def counted(run) -> dict[str, int]:
    names = ("attention", "mlp", "heads", "filled", "calls", "attended")
    return {name: getattr(run.counts, name) for name in names}


def test_plain_decoding_and_drafts_count_as_the_runner_counts(model) -> None:
    layers = model.n_layers
    assert work_plain(layers, P, N).counts(layers) == counted(greedy(model, PROMPT, N))
    for exit_layer, draft in ((1, 1), (1, 5), (2, 3), (5, 2)):
        live = fixed_exit(model, PROMPT, exit_layer, draft, N)
        assert work_rounds(layers, Trace.of(live)).counts(layers) == counted(live)
    live = dynamic_exit(model, PROMPT, N, rule=DelRule(layers, gamma_max=5))
    assert work_del(layers, Trace.of(live)).counts(layers) == counted(live)
    assert work_rounds(layers, Trace.of(live)).counts(layers) != counted(live)  # its readings


@pytest.mark.parametrize("kv", ["recompute", "copy"])
@pytest.mark.parametrize("measure", ["softmax_diff", "state", "oracle"])
def test_early_exits_count_as_the_runner_counts(model, kv, measure) -> None:
    for threshold in (0.0, 0.05, 0.3, 2.0):
        for exits in (range(1, 5), (2, 4)):
            live = early_exit(model, PROMPT, threshold, N, measure=measure, kv=kv, exits=exits)
            told = work_exits(
                model.n_layers,
                ExitTrace(live.exits, live.new, P, N),
                exits,
                copied=kv == "copy",
                reads_logits=measure == "softmax_diff",
                oracle=measure == "oracle",
            )
            assert told.counts(model.n_layers) == counted(live)


def test_free_and_skipped_layers_count_as_the_runner_counts(model) -> None:
    layers = model.n_layers
    for threshold in (0.0, 0.05, 2.0):
        live = free_exit(model, PROMPT, 2, N, threshold=threshold)
        told = work_free(layers, ExitTrace(live.exits, live.new, P, N), 2)
        assert told.counts(layers) == counted(live)
    halves = Route(tuple(range(layers)), frozenset({("attn", 2), ("mlp", 3)}))
    for route in (without(layers, [1, 3]), halves):
        live = decode_route(model, PROMPT, route, N)
        assert work_route(route, P, N).counts(layers) == counted(live)
    budgets = linear_budgets(layers, N, least=2)
    live = skip_decode(model, PROMPT, budgets, N)
    told = work_budgets([budgets.blocks(t) for t in range(N)], P)
    assert told.counts(layers) == counted(live)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "qwen3", "phi3", "gemma2"])
def test_flops_of_matrices_are_those_torch_counts(family) -> None:
    found = lensbench.load_model(tiny(family, seed=3), certify=False)
    flops = LayerCosts.of(found)
    for run, work in (
        (lambda: greedy(found, PROMPT, 3), work_plain(found.n_layers, P, 3)),
        (lambda: fixed_exit(found, PROMPT, 3, 2, 3), None),
    ):
        with FlopCounterMode(display=False) as counter:
            live = run()
        seen = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
        linear = sum(n for op, n in seen.items() if op in ("aten.mm", "aten.addmm"))
        told = work_rounds(found.n_layers, Trace.of(live)) if work is None else work
        assert flops.linear(told) == linear
        assert flops.of_work(told) > linear


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_token_of_a_mixture_pays_for_its_own_experts(family) -> None:
    found = lensbench.load_model(tiny(family, seed=3), certify=False)
    card = found.card
    assert card.top_k < card.n_experts
    experts = card.top_k * 3 * card.d_model * card.d_mlp  # gate, up and down of each
    router = card.d_model * card.n_experts
    np.testing.assert_array_equal(LayerCosts.of(found).mlp, 2.0 * (experts + router))


def test_speculation_never_saves_flops_and_skipping_does(model) -> None:
    flops, layers = LayerCosts.of(model), model.n_layers
    plain = flops.of_work(work_plain(layers, P, N))
    for exit_layer in (1, 3, 5):
        live = fixed_exit(model, PROMPT, exit_layer, 4, N)
        assert flops.of_work(work_rounds(layers, Trace.of(live))) >= plain
    assert flops.of_work(work_route(without(layers, [2]), P, N)) < plain


def flat(layers: int, layer: float, call: float, head: float) -> LayerTimes:
    """Times that do not depend on tokens or context."""
    ones = np.ones((2, 2))
    return LayerTimes(
        tokens=np.array([1, 8]), contexts=np.array([0, 32]), layer=layer * ones,
        cold=layer * ones, call=call, head=head * np.ones(2), enter=np.zeros(2),
        read=0.0, round_=0.0, fill=0.0,
        config={"n_layers": layers},
    )  # fmt: skip


def test_seconds_add_up_over_calls(model) -> None:
    live = fixed_exit(model, PROMPT, 2, 3, N)
    work = work_rounds(model.n_layers, Trace.of(live))
    counts = work.counts(model.n_layers)
    assert flat(5, 1.0, 0.0, 0.0).seconds(work) == pytest.approx(counts["calls"])
    assert flat(5, 0.0, 1.0, 0.0).seconds(work) == pytest.approx(len(work.spans))
    assert flat(5, 0.0, 0.0, 1.0).seconds(work) == pytest.approx(len(work.heads))


def test_layers_that_waited_for_several_drafts_cost_their_cold_time(model) -> None:
    times = dataclasses.replace(flat(5, 1.0, 0.0, 0.0), cold=3 * np.ones((2, 2)))
    live = fixed_exit(model, PROMPT, 2, 3, N)
    work = work_rounds(model.n_layers, Trace.of(live))
    # A draft is a second call of the lower layers, after that of the round's first state.
    waited = sum(r.drafted >= 1 for r in live.rounds)
    assert int(work.cold.sum()) == waited > 0
    calls = work.counts(model.n_layers)["calls"]
    assert times.seconds(work) == pytest.approx(calls + 2 * (5 - 2) * waited)
    early = early_exit(model, PROMPT, 0.0, N)
    told = work_exits(5, ExitTrace(early.exits, early.new, P, N), range(1, 5))
    assert not told.cold.any()


def test_times_are_measured_at_the_places_asked_and_come_back_from_disk(model, tmp_path) -> None:
    times = time_layers(model, 24, most_tokens=4, prompt_tokens=7, repeats=2)
    assert times.tokens.tolist() == [1, 2, 3, 4, 7]
    assert times.contexts.tolist() == [0, 12, 23]
    assert (times.layer >= 0).all()
    assert float(times.layer.sum()) > 0
    assert float(times.head.min()) > 0
    assert np.isfinite(times.seconds(work_plain(model.n_layers, P, N)))
    assert lensbench.results.load(times.save(tmp_path / "t")) == times
    with pytest.raises(ConfigError, match="do not fit"):
        time_layers(model, 8, most_tokens=9)
    assert greedy(model, PROMPT, 4).new == tuple(model.generate(PROMPT, max_new_tokens=4)[0])


def test_the_counter_of_a_runner_counts_states_of_any_shape(model) -> None:
    runner = model.layers(4)
    h = torch.zeros(1, 3, model.card.d_model)
    runner.logits(h)
    runner.logits(h[:, -1])
    assert runner.counts.heads == 4
