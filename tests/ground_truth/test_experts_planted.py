"""A planted specialist is found, ranked and tested; in noise and without its output, nothing is."""

import math

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, NotEnoughDataError, UnknownNameError
from lensbench.interventions import experts
from lensbench.plan import Plan
from lensbench.results import load
from lensbench.standing import standing
from lensbench.stats import wilson
from tests.helpers import tiny
from tests.moe_worlds import ANSWER, EXPERT, LAYER, N_EXPERTS, planted, prompts

SAYS = experts.NextToken({"R": [ANSWER]})
HERE = (LAYER, EXPERT)


@pytest.fixture(scope="module")
def model():
    return lensbench.load_model(planted(), certify=False)


@pytest.fixture(scope="module")
def world():
    return prompts()


@pytest.fixture(scope="module")
def maps(model, world):
    return experts.routing(model, world.rows)


def p_answer(model, rows, plan=Plan()):  # noqa: B008 - frozen value
    logits = model.run(rows, plan, logits="last").logits[:, -1]
    return logits.softmax(-1)[:, ANSWER].numpy()


def test_suppression_kills_the_answer_and_forcing_brings_it(model, world):
    triggered = [r for r, t in zip(world.rows, world.triggered, strict=True) if t]
    plain = [r for r, t in zip(world.rows, world.triggered, strict=True) if not t]
    assert p_answer(model, triggered).mean() > 0.5
    assert p_answer(model, triggered, experts.suppress(HERE)).mean() < 0.05
    assert p_answer(model, triggered, experts.reroute(HERE)).mean() < 0.05
    assert p_answer(model, plain).mean() < 0.05
    assert p_answer(model, plain, experts.force(HERE)).mean() > 0.3
    half = p_answer(model, triggered, experts.scale(HERE, 0.3)).mean()
    assert 0.05 < half < p_answer(model, triggered).mean()
    other = p_answer(model, triggered, experts.suppress((LAYER, 15))).mean()
    assert other == pytest.approx(p_answer(model, triggered).mean(), abs=0.15)


def test_routing_is_counted_token_by_token(model, world, maps):
    out = model.run([world.rows[3]], capture=["blocks.1.router.weights", "blocks.1.router.indices"])
    weights, indices = (x[0] for x in out.acts.values())
    for expert in range(N_EXPERTS):
        hit = indices == expert
        assert maps.counts[3, 1, expert] == int(hit.sum())
        assert maps.weights[3, 1, expert] == pytest.approx(float(weights[hit].sum()), abs=1e-5)
    assert (maps.counts.sum(-1) == 2 * maps.n_tokens[:, None]).all()
    assert maps.weights.sum(-1) == pytest.approx(maps.n_tokens[:, None] + np.zeros(3), abs=1e-4)
    assert maps.load.sum(-1) == pytest.approx(1.0)
    per_token = maps.maps("weight", "per_token")
    assert per_token.sum(-1) == pytest.approx(1.0, abs=1e-5)
    pairs = maps.together[1].sum() - np.trace(maps.together[1])
    assert pairs == 2 * maps.n_tokens.sum()  # every token has one pair, counted both ways
    last = experts.routing(model, world.rows, positions=[-1])
    assert (last.n_tokens == 1).all()
    assert (last.counts[world.triggered, LAYER, EXPERT] == 1).all()


def test_routing_does_not_depend_on_batches_or_padding(model):
    mixed = prompts(9, length=None, seed=3).rows
    one, many = (experts.routing(model, mixed, batch_size=size) for size in (1, 9))
    assert np.array_equal(one.counts, many.counts)
    assert one.weights == pytest.approx(many.weights, abs=1e-4)
    assert np.array_equal(one.together, many.together)
    assert one.n_tokens.tolist() == [len(row) for row in mixed]


@pytest.mark.parametrize("normalise", ["none", "per_token"])
def test_the_gate_weight_map_ranks_the_planted_expert_first(world, maps, normalise):
    found = experts.ftri(maps, world.triggered, normalise=normalise, permutations=500)
    assert found.top(1) == (HERE,)
    frame = found.to_frame()
    best = frame[(frame["class"] == "True") & (frame["rank"] == 1)].iloc[0]
    assert (best["layer"], best["expert"]) == HERE
    assert best["p"] == pytest.approx(1 / 501)
    by_hand = maps.maps("weight", normalise)[:, LAYER, EXPERT]
    gap = by_hand[world.triggered].mean() - by_hand[~world.triggered].mean()
    assert best["differential"] == pytest.approx(gap)
    assert found.differential[0] == pytest.approx(-found.differential[1])


def test_permuted_labels_give_no_significant_expert_more_often_than_they_may(maps):
    """Control: of 40 random labellings about 2 have p <= 0.05; more than 6 has chance 0.3 %."""
    rng = np.random.default_rng(7)
    false = 0
    for seed in range(40):
        labels = rng.permutation(np.arange(len(maps.n_tokens)) % 2)
        found = experts.ftri(maps, labels, permutations=99, seed=seed)
        false += bool(found.significant("1"))
    assert false <= 6


def test_length_alone_is_refused_and_within_lengths_the_planted_expert_stays(model):
    mixed = prompts(80, length=None, seed=1)
    lengths = np.array([len(row) for row in mixed.rows])
    maps = experts.routing(model, mixed.rows)
    found = experts.ftri(maps, mixed.triggered, permutations=200)
    assert found.top(1) == (HERE,)
    assert found.significant()[0] == HERE
    by_length = lengths > 6
    with pytest.raises(NotEnoughDataError, match="the stratum alone tells them apart"):
        experts.ftri(maps, by_length)
    # Sums over tokens differ by length for every busy expert: a free permutation is fooled.
    plain = experts.ftri(maps, by_length, strata=None, permutations=200)
    assert plain.p[1].min() <= 0.05
    coarse = experts.ftri(maps, mixed.triggered, strata=lengths // 4, permutations=50)
    assert coarse.exchangeable == 80


def test_a_single_expert_scan_puts_the_planted_one_first_and_equals_runs_by_hand(model, world):
    found = experts.expert_scan(model, world.rows, SAYS, target="R")
    assert found.rank_of(HERE) == 1
    assert found.effect[LAYER, EXPERT] < -0.3
    rest = np.delete(found.effect.ravel(), LAYER * N_EXPERTS + EXPERT)
    assert np.abs(rest).max() < 0.15
    for layer, expert in (HERE, (2, 3), (0, 9)):
        labels = SAYS(model, world.rows, experts.suppress((layer, expert)))
        assert found.hits[layer, expert] == sum(label == "R" for label in labels)
    clean, gone = (p_answer(model, world.rows, p) for p in (Plan(), experts.suppress(HERE)))
    assert found.shift[LAYER, EXPERT] == pytest.approx(np.log(gone / clean).mean(), abs=1e-3)
    unused = np.argwhere(found.load == 0)
    assert all(found.shift[layer, e] == 0 for layer, e in unused)
    slow = experts.expert_scan(model, world.rows[:12], experts.Response(str, 1), layers=[1])
    assert np.isnan(slow.shift).any()
    assert slow.layers.tolist() == [1]


def test_the_study_finds_on_one_half_and_confirms_on_the_other(model, world, tmp_path):
    found = experts.expert_study(model, world.rows, SAYS, target="R", top=1, permutations=200)
    assert found.experts.tolist() == [list(HERE)]
    assert not set(found.find_rows) & set(found.test_rows)
    assert len(found.find_rows) + len(found.test_rows) == len(world.rows)
    assert found.relative_change() < -0.9
    assert abs(found.controls.values["random_farthest"]) < 0.35
    assert found.rate("forced").mean > 1.5 * found.rate().mean
    assert found.rate("suppressed").high < found.rate().low
    assert set(found.no_longer()) == {
        int(i) for i in found.test_rows if SAYS(model, [world.rows[i]], Plan()) == ["R"]
    }
    assert len(found.newly()) == 0
    forced = {
        int(i)
        for i in found.test_rows
        if SAYS(model, [world.rows[i]], Plan()) != ["R"]
        and SAYS(model, [world.rows[i]], experts.force(HERE)) == ["R"]
    }
    assert set(found.newly("forced")) == forced
    assert len(forced) > 3
    told, tests = found.summary(), len(found.test_rows)
    assert told["no_longer_share"] == len(found.no_longer()) / tests > 0
    assert told["newly_share"] == 0
    counted = found.to_frame().set_index("condition").loc["suppressed"]
    assert counted["no_longer"] == len(found.no_longer())
    assert found.to_frame().attrs["units"]["newly"] == "count of test prompts"
    moved = found.changed_prompts()
    assert (moved["before"] == "R").all()
    assert int(found.confusion().to_numpy().sum()) == len(found.test_rows)
    assert found.kl[0].max() == 0
    assert not found.changed[0].any()
    at = found.conditions.index("suppressed")
    assert found.perplexity() == pytest.approx(_perplexity(model, world, found, Plan()), rel=1e-4)
    plan = experts.suppress(HERE)
    assert found.perplexity("suppressed") == pytest.approx(
        _perplexity(model, world, found, plan), rel=1e-4
    )
    assert found.kl[at].mean() > 0
    again = load(found.save(tmp_path / "study"))
    assert again == found
    assert found.to_frame()["n"].eq(len(found.test_rows)).all()
    assert "random load" in str(found.controls)
    found.plot()


def _perplexity(model, world, found, plan):
    clean = SAYS(model, world.rows, Plan())
    rows = [world.rows[i] for i in found.test_rows if clean[i] != "R"]
    logits = model.run(rows, plan).logits.double().log_softmax(-1)
    ids = torch.tensor(rows)
    return math.exp(-float(logits[:, :-1].gather(-1, ids[:, 1:, None]).mean()))


def test_without_the_planted_output_suppression_does_nothing(world):
    """Control: the expert is still the most distinctive one, but it writes nothing."""
    empty = lensbench.load_model(planted(writes=False), certify=False)
    maps = experts.routing(empty, world.rows)
    assert experts.ftri(maps, world.triggered, permutations=50).top(1) == (HERE,)
    change = p_answer(empty, world.rows, experts.suppress(HERE)) - p_answer(empty, world.rows)
    assert np.abs(change[~world.triggered]).max() < 0.01
    assert p_answer(empty, world.rows).mean() < 0.05
    assert p_answer(empty, world.rows, experts.force(HERE)).mean() < 0.05


def test_groups_are_not_divided_and_given_experts_need_no_split(model, world):
    groups = [f"template {i // 6}" for i in range(len(world.rows))]
    found = experts.expert_study(
        model, world.rows, SAYS, target="R", top=1, groups=groups, permutations=20, draws=1
    )
    names = np.array(groups)
    assert not set(names[found.find_rows]) & set(names[found.test_rows])
    given = experts.expert_study(
        model, world.rows, SAYS, target="R", experts=[HERE], draws=0, neutral=[[1, 9, 12, 30]]
    )
    assert given.ranking is None
    assert len(given.test_rows) == len(world.rows)
    assert given.neutral_from == "given"
    assert not given.controls
    assert given.relative_change() < -0.9
    told = np.where(world.triggered, "R", "plain")  # what is so, not what the model says
    by_world = experts.expert_study(
        model, world.rows, SAYS, target="R", labels=told, top=1, permutations=20, draws=1
    )
    assert by_world.ranking is not None
    assert by_world.ranking.classes == ("R", "plain")
    assert by_world.ranking.n.tolist() == [15, 15]
    assert by_world.experts.tolist() == [list(HERE)]
    assert by_world.rate().n == 30


def test_random_experts_match_layer_number_and_load_and_are_others(maps):
    given = [HERE, (1, 3), (0, 2)]
    drawn = experts.matched_random(maps, given, draws=6, seed=1)
    assert len({frozenset(map(tuple, d)) for d in drawn.tolist()}) == len(drawn) == 6
    for draw in drawn.tolist():
        assert [layer for layer, _ in draw] == [1, 1, 0]
        assert not {tuple(x) for x in draw} & set(given)
        assert len({tuple(x) for x in draw}) == 3
    own = maps.load[LAYER, EXPERT]
    order = np.argsort(np.abs(np.delete(maps.load[LAYER], [EXPERT, 3]) - own))
    near = np.delete(np.arange(N_EXPERTS), [EXPERT, 3])[order[:5]]  # another draw may take one
    assert set(drawn[:, 0, 1]) <= set(near.tolist())
    with pytest.raises(NotEnoughDataError, match="are to be matched"):
        experts.matched_random(maps, [(1, e) for e in range(9)])


def test_no_more_experts_of_a_layer_are_forced_than_there_are_slots(model, world):
    chosen = [(1, 6), (1, 3), (1, 5), (0, 2)]
    found = experts.expert_study(model, world.rows, SAYS, target="R", experts=chosen, draws=1)
    assert found.forced.tolist() == [[1, 6], [1, 3], [0, 2]]
    frame = found.experts_frame()
    assert frame["partner"].tolist()[3] == -1
    assert frame["load"].iloc[0] == pytest.approx(found.maps.load[1, 6])


def test_answers_longer_than_a_token_are_decoded_under_the_plan(model, world):
    said = experts.Response(lambda ids: f"{len(ids)} tokens", 3)
    assert set(said(model, world.rows[:4], Plan())) == {"3 tokens"}
    first = experts.Response(lambda ids: "R" if ids[0] == ANSWER else "other", 2)
    for plan in (Plan(), experts.suppress(HERE)):
        assert first(model, world.rows, plan) == SAYS(model, world.rows, plan)
    with pytest.raises(ConfigError, match="no tokenizer"):
        experts.Says("sorry")(model, world.rows, Plan())


@pytest.mark.illtyped
def test_what_does_not_fit_is_refused(model, world, maps):
    dense = lensbench.load_model(tiny("llama"), certify=False)
    with pytest.raises(ConfigError, match="has no experts; this needs a mixture of experts"):
        experts.routing(dense, [[1, 2, 3]])
    with pytest.raises(ConfigError, match="has no experts"):
        experts.expert_study(dense, world.rows, SAYS)
    with pytest.raises(ConfigError, match=r"layer 1 has experts 0\.\.15, got expert 16"):
        experts.expert_study(model, world.rows, SAYS, experts=(1, 16))
    with pytest.raises(ConfigError, match=r"layer 7 has no router; those of this model are"):
        experts.expert_study(model, world.rows, SAYS, experts=(7, 1))
    with pytest.raises(ConfigError, match=r"names expert 99; this model has experts 0\.\.15"):
        model.run(world.rows, experts.suppress((1, 99)))
    with pytest.raises(UnknownNameError, match="No prompt has it"):
        experts.expert_study(model, world.rows, SAYS, target="Q")
    with pytest.raises(NotEnoughDataError, match="both halves need some"):
        experts.expert_study(model, world.rows[::2], SAYS, target="other")
    with pytest.raises(NotEnoughDataError, match="all 60 prompts are of class"):
        experts.ftri(maps, ["same"] * 60)
    with pytest.raises(ConfigError, match="one value per prompt"):
        experts.ftri(maps, [True, False])
    with pytest.raises(UnknownNameError, match="Did you mean 'weight'"):
        experts.ftri(maps, world.triggered, activation="weigth")
    with pytest.raises(ConfigError, match="is given to 'a' and to 'b'"):
        experts.NextToken({"a": [3], "b": [3]})
    with pytest.raises(ConfigError, match=r"pairs \(layer, expert\)"):
        experts.suppress([(1, 2, 3)])
    with pytest.raises(ConfigError, match="gave 1 labels for 60 prompts"):
        experts.expert_scan(model, world.rows, lambda *_: ["x"])
    with pytest.raises(ConfigError, match="those with a router"):
        experts.expert_scan(model, world.rows, SAYS, layers=[5])
    with pytest.raises(ConfigError, match=r"positions must be of -8\.\.7"):
        experts.routing(model, world.rows, positions=[8])


def test_plans_and_results_are_data(model, world, maps, tmp_path):
    plan = experts.suppress([(1, 6), (0, 2), (1, 3)]) + experts.force((2, 1), positions=[-1])
    assert Plan.from_json(plan.to_json()) == plan
    assert [str(e.site) for e in plan.edits] == [
        "blocks.0.router.weights", "blocks.1.router.weights", "blocks.2.router.weights",
    ]  # fmt: skip
    ranking = experts.ftri(maps, world.triggered, permutations=20)
    scan = experts.expert_scan(model, world.rows[:10], SAYS, layers=[1])
    for number, result in enumerate((maps, ranking, scan)):
        assert load(result.save(tmp_path / str(number))) == result
        result.plot()
    assert ranking.plot("False", "mean").data[0].zmax == pytest.approx(ranking.means.max())
    for result in (maps, ranking, scan):
        assert len(result.to_frame())
        assert result.summary()


def test_wilson_intervals_are_those_of_the_formula():
    """Values of Newcombe 1998, table I."""
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                               (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        found = wilson(hits, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert math.isnan(wilson(0, 0).mean)
    with pytest.raises(ConfigError, match="0 <= hits <= n"):
        wilson(3, 2)


def test_the_verdict_is_yes_for_the_planted_expert_and_at_most_one_in_21_of_random_sets(model):
    world = prompts(60, seed=4)
    rows = [row for row, hit in zip(world.rows, world.triggered, strict=True) if hit]
    maps = experts.routing(model, rows)
    chosen = [HERE, (0, 3), (2, 9)]
    sets = [chosen, *experts.matched_random(maps, chosen, 20).tolist()]
    clean = p_answer(model, rows).mean()
    rates = [p_answer(model, rows, experts.suppress(one)).mean() for one in sets]
    assert standing(rates[0], rates[1:], clean).stands_out
    # 20 random sets and a change of nothing: each in turn is the chosen one
    null = [*rates[1:], clean]
    out = [standing(null[i], null[:i] + null[i + 1 :], clean).stands_out for i in range(21)]
    assert sum(out) <= 1


def test_a_study_ranks_its_experts_among_its_random_ones(model, world):
    labels = np.where(world.triggered, "R", "other")
    given = [HERE, (0, 3), (2, 9)]
    report = experts.expert_study(model, world.rows, SAYS, target="R", labels=labels, experts=given,
                                  draws=20)  # fmt: skip
    found = report.standing("suppressed")
    assert found.stands_out
    assert found.base == report.rate("clean").mean
    shown = report.shown()
    assert list(shown["condition"]) == ["clean", "suppressed", "forced", "random suppressed",
                                        "random forced"]  # fmt: skip
    assert shown["high"].iloc[3] == max(found.controls)
    few = experts.expert_study(model, world.rows, SAYS, target="R", labels=labels, experts=[HERE],
                               draws=20)  # fmt: skip
    assert few.standing().n == 4, "the four neighbours of one expert"
    assert few.standing().stands_out is None
