"""Readouts whose answer is known: allocations, commits, draft lengths, acceptance, judges."""

import itertools

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, LensbenchError, MismatchError, NotEnoughDataError
from lensbench.interventions.acceleration import (
    DraftText,
    Warp,
    acceptance_head,
    adaptive_compute,
    allocate,
    capture_own,
    count_block_forwards,
    denoise,
    draft_length,
    final_filter,
    fit_acceptance_head,
    fixed_exit,
    judge_decoding,
    judge_lengths,
    last_prompt_states,
    prophet,
    prophet_rule,
)
from lensbench.interventions.acceleration.readouts.acceptance_result import stopped_rounds
from lensbench.interventions.acceleration.readouts.adaptive_compute import _solved
from lensbench.interventions.acceleration.readouts.draft_length import rounds_of
from lensbench.interventions.acceleration.readouts.rows import split
from lensbench.results import load
from tests.helpers import tiny


def same_after_saving(result, folder) -> bool:
    result.plot()
    assert len(result.to_frame())
    return load(result.save(folder)) == result


# --- adaptive compute


def best_by_brute_force(chance, budget):
    shares = itertools.product(range(budget + 1), repeat=len(chance))
    values = [sum(1 - (1 - p) ** b for p, b in zip(chance, s, strict=True))
              for s in shares if sum(s) == budget]  # fmt: skip
    return max(values)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_allocation_is_the_best_of_all_allocations(seed) -> None:
    chance = np.random.default_rng(seed).beta(0.5, 0.5, 4)
    for budget in range(7):
        given = allocate(chance, budget)
        value = float((1 - (1 - chance) ** given).sum())
        assert given.sum() == budget
        assert value == pytest.approx(best_by_brute_force(chance, budget), abs=1e-12)
    # Control: equal shares are not.
    even = float((1 - (1 - np.array([0.9, 0.1, 0.1, 0.05])) ** 1).sum())
    assert best_by_brute_force([0.9, 0.1, 0.1, 0.05], 4) > even + 0.01


def test_solved_shares_are_those_of_all_subsets_of_samples() -> None:
    m = 5
    for wins, b in itertools.product(range(m + 1), range(m + 1)):
        samples = [1] * wins + [0] * (m - wins)
        subsets = list(itertools.combinations(samples, b))
        truth = np.mean([any(s) for s in subsets])
        assert _solved(np.array([wins]), m, np.array([b]))[0] == pytest.approx(truth)


def hard_and_easy(n=600, samples=16, spread=2.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8))
    chance = 1 / (1 + np.exp(1.5 - spread * x[:, 0]))
    return x, (rng.random((n, samples)) < chance[:, None]).astype(float)


def test_a_probe_that_tells_hard_from_easy_solves_more_with_the_same_samples(tmp_path) -> None:
    found = adaptive_compute(*hard_and_easy())
    told = found.summary()
    assert told["rank_correlation"] > 0.8
    assert told["probe_gain"] > 0.02
    assert told["oracle_gain"] >= told["probe_gain"]
    assert told["shuffled_gain"] < 0  # samples given to the wrong prompts are lost
    assert (found.given.sum(-1) <= np.array(found.budgets) * found.given.shape[-1]).all()
    assert same_after_saving(found, tmp_path / "r")


def test_equal_prompts_gain_nothing() -> None:
    told = adaptive_compute(*hard_and_easy(spread=0.0)).summary()
    assert abs(told["probe_gain"]) < 0.03


def test_rewards_and_budgets_that_cannot_be_used_are_refused() -> None:
    x, rewards = hard_and_easy(20)
    for bad in ({"rewards": rewards * 2}, {"rewards": rewards[:5]}, {"budgets": (17,)}):
        with pytest.raises(ConfigError):
            adaptive_compute(**({"states": x, "rewards": rewards} | bad))
    with pytest.raises(NotEnoughDataError):
        adaptive_compute(x[:1], rewards[:1])
    with pytest.raises(ConfigError):
        allocate([0.5, 1.5], 2)


# --- early commit of a diffusion model


MASK = 9


def by_hand(gaps):
    """A predictor whose step s says token ``s % 3`` everywhere, with the gap of that step."""
    count = iter(range(len(gaps)))

    def predict(ids):
        step = next(count)
        logits = torch.zeros(len(ids), 10)
        logits[:, step % 3] = gaps[step]
        return logits

    return predict


@pytest.mark.parametrize(
    ("gaps", "exit_step"),
    [
        ([8, 1, 1, 1, 1, 1, 1, 1, 1, 1], 1),  # 7.5 in the first third
        ([7, 7, 7, 4.9, 5.1, 1, 1, 1, 1, 1], 4 + 1),  # .4: 5.0 asked for
        ([1, 1, 1, 4, 4, 4, 2, 2.6, 1, 1], 8),  # .8: 2.5
        ([1, 1, 1, 5.5, 1, 1, 1, 1, 1, 1], 4),  # steps are counted from 1: .4, not .3
        ([1, 1, 1, 1, 1, 1, 2.6, 1, 1, 1], 7),
        ([7.4, 7.4, 7.4, 4.9, 4.9, 4.9, 2.4, 2.4, 2.4, 2.4], 10),  # never
    ],
)
def test_prophet_commits_at_the_step_worked_out_by_hand(gaps, exit_step) -> None:
    ids = torch.tensor([5] * 2 + [MASK] * 10)
    run = denoise(by_hand(gaps), ids, MASK, 10)
    found = prophet([run], range(2, 7))
    assert found.exit_step.tolist() == [exit_step]
    live = denoise(by_hand(gaps), ids, MASK, 10, commit=prophet_rule(range(2, 7)))
    assert len(live.steps) == exit_step
    assert live.final.tolist() == run.committed(exit_step).tolist()
    assert (live.final != MASK).all()


def toy_runs(n=24, seed=0):
    """A predictor that grows certain; it is often wrong while its gap is small."""
    runs = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        truth = rng.integers(0, 8, 12)
        speed = rng.uniform(0.5, 2.0)

        def predict(ids, rng=rng, truth=truth, speed=speed):
            known = int((ids != MASK).sum())
            logits = rng.normal(size=(len(ids), 8)) * 2
            logits[np.arange(len(ids)), truth] += speed * (known + 1)
            return torch.from_numpy(logits)

        runs.append(denoise(predict, torch.full((12,), MASK), MASK, 12))
    return runs


def test_committing_on_a_gap_keeps_answers_and_committing_at_once_does_not(tmp_path) -> None:
    runs = toy_runs()
    answer = range(5)
    found = prophet(runs, answer)
    assert found.summary()["fewer_steps"] > 1.2
    assert found.summary()["agreement"] >= 0.8
    at_once = prophet(runs, answer, thresholds=(0.0, 0.0, 0.0))
    assert set(at_once.exit_step) == {1}
    assert at_once.summary()["agreement"] < 0.5
    never = prophet(runs, answer, thresholds=(1e9, 1e9, 1e9))
    assert never.same.all()
    assert set(never.exit_step) == {12}
    assert (found.settled_step[found.same] <= found.n_steps[found.same]).all()
    one = denoise(
        lambda ids: torch.eye(10)[:1].expand(len(ids), -1), torch.full((4,), MASK), MASK, 4
    )
    assert prophet([one], [1]).settled_step.tolist() == [1]  # it says the same at every step
    assert same_after_saving(found, tmp_path / "r")


def test_the_learned_filter_tells_final_tokens_and_its_commits_are_those_of_a_live_run() -> None:
    runs = toy_runs(40)
    filtered, found = final_filter(runs, range(12))
    assert found.summary()["agreement"] >= 0.8
    assert found.summary()["fewer_steps"] > 1.0
    gaps = by_hand([8, 7, 6, 1, 1])
    ids = torch.full((5,), MASK)
    full = denoise(gaps, ids, MASK, 5)
    live = denoise(by_hand([8, 7, 6, 1, 1]), ids, MASK, 5, commit=filtered.rule(0.9))
    chances = [filtered(i, 5, s).min() for i, s in enumerate(full.steps, 1)]
    first = next((i for i, c in enumerate(chances, 1) if c >= 0.9), 5)
    assert len(live.steps) == first


def test_runs_that_cannot_be_read_are_refused() -> None:
    ids = torch.full((4,), MASK)
    cut = denoise(by_hand([9, 9]), ids, MASK, 2, commit=lambda *_: True)
    with pytest.raises(ConfigError, match="early"):
        prophet([cut], [0])
    with pytest.raises(ConfigError):
        denoise(by_hand([1] * 5), ids, MASK, 5)
    with pytest.raises(ConfigError):
        prophet([denoise(by_hand([9, 9]), ids, MASK, 2)], [7])


# --- draft lengths (DISCO)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model whose later layers say little, so that some drafts of the early ones are kept."""
    module = tiny("llama", seed=3, num_hidden_layers=6)
    with torch.no_grad():
        for block in module.model.layers[2:]:
            block.self_attn.o_proj.weight.mul_(0.15)
            block.mlp.down_proj.weight.mul_(0.15)
    model = lensbench.load_model(module, certify=False)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, model.card.d_vocab, 6).tolist() for _ in range(6)]
    return model, prompts, capture_own(model, prompts, tmp_path_factory.mktemp("own") / "s", 24)


def test_fixed_lengths_read_from_the_store_are_the_rounds_of_live_runs(own) -> None:
    model, prompts, store = own
    with count_block_forwards(model) as blocks:
        found = draft_length(store, model, 3, most=4)
    assert blocks.count == 0
    assert found.provenance.store == store.fingerprint
    frame = found.to_frame().set_index("policy")
    from lensbench.interventions.acceleration.readouts.rows import split

    held = split(prompts, 0.5, 0)[1]
    for k in (1, 3):
        live = [fixed_exit(model, torch.tensor([prompts[i]]), 3, k, 24) for i in held]
        assert frame.n_rounds[f"fixed {k}"] == sum(len(r.rounds) for r in live)
        assert frame.drafted_most[f"fixed {k}"] == sum(r.drafted for r in live)
        accepted = found.accepted[found.policies.index(f"fixed {k}")]
        assert accepted == sum(r.accepted for r in live)
        assert 0 < accepted < frame.drafted_most[f"fixed {k}"]  # neither trivial


def draft_texts(informed=True, n=12, length=120, seed=0):
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        kept = rng.random(length) < 0.7
        told = kept if informed else rng.permutation(kept)
        features = np.stack([told + rng.normal(size=length) * 0.1, rng.normal(size=length)], -1)
        texts.append(DraftText(features, kept))
    return texts


def test_a_classifier_that_knows_stops_at_every_wrong_token(tmp_path) -> None:
    found = judge_lengths(draft_texts(), 2, 8, most=8)
    frame = found.to_frame().set_index("policy")
    oracle, judged = frame.loc["oracle"], frame.loc["p >= 0.5"]
    assert found.auroc > 0.99
    assert judged.n_rounds == oracle.n_rounds
    assert judged.drafted_most <= oracle.drafted_most + oracle.n_rounds
    assert (
        judged.serial_layers_most
        < frame.serial_layers_most[frame.index.str.startswith("fix")].min()
    )
    assert oracle.serial_layers_most <= frame.serial_layers_most.min()
    # Control: one of moved labels is no better than the best fixed length.
    moved = frame[frame.index.str.startswith("moved")].serial_layers_most.min()
    assert moved >= frame.serial_layers_most[frame.index.str.startswith("fix")].min() - 1e-9
    assert same_after_saving(found, tmp_path / "r")
    assert judge_lengths(draft_texts(informed=False), 2, 8).auroc < 0.65


def test_rounds_by_hand() -> None:
    kept = np.array([True, True, False, True, True, True, False, True])
    text = DraftText(np.zeros((8, 1)), kept)
    # drafts: [0 1 2x] -> 3 tokens; [3 4 5] -> 4 tokens; last token alone
    assert rounds_of(text, 3, 8) == (3, 5, 6, 6)
    assert rounds_of(text, None, 8) == (3, 5, 5, 5)
    # [0 | stop] takes 0 and 1; [2x | stop] takes 2; [3] 3, 4; [5] 5, 6; [] 7
    assert rounds_of(text, lambda _: False, 8) == (5, 3, 4, 4)
    # goes on past the wrong token for an unknown number of drafts
    assert rounds_of(text, lambda _: True, 4) == (3, 5, 7, 8)


def test_drafts_need_the_models_own_text(own, tmp_path) -> None:
    model = own[0]
    other = lensbench.capture(
        model,
        torch.randint(5, 50, (4, 12)),
        "blocks.*.resid_post",
        out=tmp_path / "o",
        layout="pad",
    )
    with pytest.raises(MismatchError):
        draft_length(other, model, 3)
    with pytest.raises(ConfigError):
        draft_length(own[2], model, model.n_layers)


# --- acceptance head (SpecDec++)


def bernoulli_world(n, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=rng)
    chance = torch.sigmoid(1.5 * (x[:, 0] + x[:, 1]))
    return x, chance, torch.bernoulli(chance, generator=rng)


def test_the_head_finds_known_chances_and_the_weight_biases_it_by_the_known_amount() -> None:
    x, _, drawn = bernoulli_world(4000, 0)
    head = fit_acceptance_head(x, drawn)
    held, chance, _ = bernoulli_world(2000, 1)
    assert float((head.chance(held) - chance).abs().mean()) < 0.06
    weighted = chance / (chance + 6 * (1 - chance))
    assert float((head(held) - weighted).abs().mean()) < 0.06
    # Control: the weighted output is not the chance, and moved labels teach nothing.
    assert float((head(held) - chance).abs().mean()) > 0.15
    moved = fit_acceptance_head(x, drawn[torch.randperm(4000)])
    assert float((moved.chance(held) - chance).abs().mean()) > 0.2
    plain = fit_acceptance_head(x, drawn, reject_weight=1.0)
    torch.testing.assert_close(plain(held), plain.chance(held))


def test_the_stopping_rule_by_hand() -> None:
    raw = np.array([0.9, 0.8, 0.5, 0.9])
    label = np.array([1.0, 0.5, 0.5, 1.0])
    doc = np.zeros(4, dtype=int)
    # 1 - .9 = .1; 1 - .72 = .28; 1 - .36 = .64
    assert stopped_rounds(raw, label, doc, 0.5, 1, 4) == (3.0, 1 + 0.5 + 0.25, 1)
    assert stopped_rounds(raw, label, doc, 0.2, 1, 4) == (2.0, 1.5, 1)
    assert stopped_rounds(raw, label, doc, 0.2, 3, 4)[0] == 3.0
    assert stopped_rounds(raw, label, doc, 0.99, 1, 4) == (4.0, 2.0, 1)


def test_labels_of_drafts_average_to_the_overlap_of_both_distributions(own, tmp_path) -> None:
    model, _, store = own
    _, report = acceptance_head(store, model, 2, least=1, most=6, test=0.5, depth=0)
    from lensbench.interventions.acceleration.readouts.rows import documents, split, states

    docs = documents(store)
    rows = np.concatenate([docs[i].rows[:-1] for i in split(docs, 0.5, 0)[1]])
    q = model.unembed(states(store, 2, rows)).softmax(-1)
    p = model.unembed(states(store, model.n_layers, rows)).softmax(-1)
    overlap = float(torch.minimum(p, q).sum(-1).mean())
    error = report.label.std() / len(report.label) ** 0.5
    assert len(report.label) == len(rows)
    assert abs(report.label.mean() - overlap) < 4 * error
    assert same_after_saving(report, tmp_path / "r")
    assert (np.diff(report.rounds_frame().drafted) >= 0).all()  # a larger h drafts longer


def test_a_draft_that_is_the_model_is_always_accepted(tmp_path) -> None:
    module = tiny("llama", seed=3, num_hidden_layers=4)
    with torch.no_grad():
        for block in module.model.layers[2:]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    model = lensbench.load_model(module, certify=False)
    ids = torch.randint(3, 40, (4, 16), generator=torch.Generator().manual_seed(0))
    store = lensbench.capture(model, ids, "blocks.*.resid_post", out=tmp_path / "s", layout="pad",
                              dtype="float32", bos=False)  # fmt: skip
    for warp in (Warp(1.0), Warp()):
        _, same = acceptance_head(store, model, 2, warp=warp, least=1, most=4)
        np.testing.assert_allclose(same.label, 1.0, atol=1e-5)
    _, other = acceptance_head(store, model, 1, least=1, most=4)
    assert other.label.mean() < 0.9
    for bad in ({"mix": 1.0}, {"least": 5}, {"thresholds": (1.0,)}, {"reject_weight": 0}):
        with pytest.raises(LensbenchError):
            acceptance_head(store, model, 2, **({"most": 4} | bad))


# --- judge decoding


def evens(tmp_path, d_vocab=16, n=24):
    """A model whose state is its token; after any token the even ones are right, one is said."""
    module = tiny("llama", vocab_size=d_vocab, hidden_size=32)
    with torch.no_grad():
        for block in module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        module.model.norm.weight.fill_(1.0)
        module.model.embed_tokens.weight.copy_(torch.eye(d_vocab, 32))
        module.lm_head.weight.zero_()
        for token in range(d_vocab):
            module.lm_head.weight[(token // 2 * 2 + 2) % d_vocab, token] = 1.0
    model = lensbench.load_model(module, certify=False)
    rng = np.random.default_rng(0)
    said = lambda token: (token // 2 * 2 + 2) % d_vocab  # noqa: E731
    texts, right = [], []
    for _ in range(n):
        text = rng.integers(0, d_vocab, 3).tolist()
        for _ in range(9):  # mostly right, some said by the model itself
            other = rng.choice([0, 2, 4, 6, 8, 10, 12, 14]) if rng.random() < 0.8 else 7
            text.append(int(said(text[-1]) if rng.random() < 0.5 else other))
        texts.append(text)
        right.append(np.array(text[3:]) % 2 == 0)
    store = lensbench.capture(model, torch.tensor(texts), "blocks.*.resid_post", layout="pad",
                              out=tmp_path / "s", dtype="float32", bos=False)  # fmt: skip
    return model, store, texts, right


def test_the_judge_keeps_right_tokens_the_model_would_not_have_said(tmp_path) -> None:
    model, store, texts, right = evens(tmp_path)
    with count_block_forwards(model) as blocks:
        _, found = judge_decoding(store, model, [3] * len(texts), right)
    assert blocks.count == 0
    frame = found.to_frame().set_index("rule")
    assert found.auroc == 1.0
    assert found.accepted[1].tolist() == found.right.tolist()
    assert frame.wrong_kept["judge"] == 0
    assert frame.accepted["strict"] < frame.accepted["judge"]
    assert frame.wrong_kept["strict"] == 0  # what it says is even
    held = [texts[i] for i in split(texts, 0.5, 0)[1]]
    drafted = [itertools.pairwise(text[2:]) for text in held]
    agreed = [[after == (before // 2 * 2 + 2) % 16 for before, after in one] for one in drafted]
    assert found.accepted[0].tolist() == [[*one, False].index(False) for one in agreed]
    assert frame.wrong_kept["keep all"] > 0.05
    assert frame.lossless.tolist() == [True, False, False, False]
    moved = frame.loc["moved labels"]
    assert moved.wrong_kept > 0.02 or moved.accepted < frame.accepted["judge"]
    assert same_after_saving(found, tmp_path / "r")
    with pytest.raises(ConfigError):
        judge_decoding(store, model, [4] * len(texts), right)
    with pytest.raises(ConfigError):
        judge_decoding(store, model, [3], right[:1])


def test_states_of_last_prompt_tokens_are_those_of_the_prompt(own) -> None:
    model, prompts, store = own
    found = last_prompt_states(store, "blocks.2.resid_post")
    acts = model.run(torch.tensor(prompts), capture=["blocks.2.resid_post"]).acts
    np.testing.assert_allclose(found, acts["blocks.2.resid_post"][:, -1].numpy(), atol=1e-4)
