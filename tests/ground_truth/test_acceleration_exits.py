"""Early exits: limits, the full model's own table, and worlds where the answer is known."""

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import LensbenchError, MismatchError
from lensbench.interventions.acceleration import (
    ExitClassifier,
    early_exit,
    fit_exit_classifier,
    free_exit,
    greedy,
    learn_then_test,
)
from lensbench.interventions.acceleration.exits.confidence import of_logits, threshold_at
from lensbench.interventions.acceleration.exits.free import AgreementMixture
from lensbench.plan import skip_layers
from tests.helpers import random_ids, tiny

PROMPT = random_ids(1, 7, seed=2)
N = 14


@pytest.fixture(scope="module")
def llama():
    return lensbench.load_model(tiny("llama", seed=3), certify=False)


@pytest.fixture(scope="module")
def atlas():
    return lensbench.load_model("atlas-dense", certify=False)


def silent_from(layer: int):
    """A model whose blocks from ``layer`` on write nothing."""
    model = lensbench.load_model(tiny("llama", seed=3), certify=False)
    for block in model.module.model.layers[layer:]:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    return model


def own_table(model, ids, start, measure):
    """Confidence and token ``[layers, steps]`` of every layer on a text, from one full pass."""
    sites = [f"blocks.{i}.resid_post" for i in range(model.n_layers)]
    acts = model.run(torch.tensor([list(ids)]), capture=sites).acts
    states = torch.stack([acts[s][0, start:] for s in sites])
    logits = model.unembed(states)
    if measure == "state":
        turned = torch.cosine_similarity(states[:-1].double(), states[1:].double(), dim=-1).float()
        return torch.cat((torch.zeros_like(turned[:1]), turned)), logits.argmax(-1)
    return of_logits(measure, logits), logits.argmax(-1)


@pytest.mark.parametrize("kv", ["recompute", "copy"])
def test_no_exit_above_one_and_the_first_exit_at_zero(llama, kv) -> None:
    full = greedy(llama, PROMPT, N)
    never = early_exit(llama, PROMPT, 1.5, N, kv=kv)
    assert never.new == full.new
    assert set(never.exits) == {llama.n_layers}
    assert never.counts.layer_tokens == full.counts.layer_tokens
    at_once = early_exit(llama, PROMPT, 0.0, N, kv=kv)
    assert set(at_once.exits) == {1}
    assert set(early_exit(llama, PROMPT, 0.0, N, kv=kv, exits=[2]).exits) == {2}


@pytest.mark.parametrize("measure", ["softmax_diff", "softmax_max", "entropy", "state"])
def test_recomputed_exits_and_tokens_are_those_of_the_full_models_table(atlas, measure) -> None:
    prompt = atlas.tokens("in the")
    n_prompt, threshold = prompt.ids.shape[1], {"state": 0.93, "entropy": 0.7}.get(measure, 0.5)
    found = early_exit(atlas, prompt, threshold, 30, measure=measure)
    sure, token = own_table(atlas, [*found.prompt, *found.new[:-1]], n_prompt - 1, measure)
    last = atlas.n_layers
    exits = [
        next((e for e in range(1, last) if sure[e - 1, t] >= threshold), last) for t in range(30)
    ]
    margin = (sure[: last - 1] - threshold).abs().min()
    assert margin > 1e-5  # no tie of rounding decides
    assert list(found.exits) == exits
    assert list(found.new) == [int(token[e - 1, t]) for t, e in enumerate(exits)]
    assert len(set(exits)) > 1  # control: the threshold tells tokens apart


def test_copied_states_are_not_the_full_models(atlas) -> None:
    prompt = atlas.tokens("in the")
    copied = early_exit(atlas, prompt, 0.5, 30, kv="copy")
    sure, _ = own_table(
        atlas, [*copied.prompt, *copied.new[:-1]], prompt.ids.shape[1] - 1, "softmax_diff"
    )
    last = atlas.n_layers
    exits = [next((e for e in range(1, last) if sure[e - 1, t] >= 0.5), last) for t in range(30)]
    assert list(copied.exits) != exits
    assert copied.counts.filled > 0


def test_copied_states_are_stored_as_keys_and_values_of_the_layers_above(llama) -> None:
    asked = iter([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])  # leave, go on, leave, leave, go on, go on
    found = early_exit(
        llama, PROMPT, 0.5, 6, exits=[1], kv="copy",
        measure=lambda h, _: torch.full((len(h),), next(asked)),
    )  # fmt: skip
    assert found.exits == (1, 3, 1, 1, 3, 3)
    runner, token, new = llama.layers(13), PROMPT[:, -1:], []
    runner.run(runner.embed(PROMPT[:, :-1], 0), 0, 3, 0)
    for t, left in enumerate(found.exits):
        h = runner.run(runner.embed(token, 6 + t), 0, 1, 6 + t)
        if left == 1:
            runner.fill(h, [1, 2], 6 + t)
        else:
            h = runner.run(h, 1, 3, 6 + t)
        token = runner.logits(h)[:, -1].argmax(-1)[None]
        new.append(int(token))
    assert found.new == tuple(new)


def test_a_token_leaves_at_the_threshold_itself_and_saturation_needs_a_layer_before(llama) -> None:
    at = early_exit(llama, PROMPT, 0.5, 3, measure=lambda h, _: torch.full((len(h),), 0.5))
    assert set(at.exits) == {1}
    saturated = early_exit(llama, PROMPT, 1e-9, 4, exits=[2], measure="state")
    assert set(saturated.exits) == {3}  # the first exit has confidence 0


def test_a_layer_that_the_plan_skips_runs_for_no_token_and_stores_no_keys(llama) -> None:
    plan = skip_layers([1])
    wanted = greedy(llama, PROMPT, N, plan=plan).new
    for kv in ("recompute", "copy"):
        assert early_exit(llama, PROMPT, 1.5, N, kv=kv, plan=plan).new == wanted
    left = early_exit(llama, PROMPT, 0.0, N, exits=[1], kv="copy", plan=plan).counts
    assert left.filled == N  # of layer 3 alone
    assert left.by_layer == {0: PROMPT.shape[1] + N - 1, 2: PROMPT.shape[1] - 1}


def test_confidences_by_hand() -> None:
    even, sure = torch.zeros(16), torch.zeros(16).index_fill(0, torch.tensor([3]), 100.0)
    two = torch.full((16,), -100.0).index_fill(0, torch.tensor([3, 5]), 0.0)
    for name, values in {
        "entropy": (0.0, 1.0, 0.75),
        "softmax_max": (1 / 16, 1.0, 0.5),
        "softmax_diff": (0.0, 1.0, 0.0),
    }.items():
        for logits, value in zip((even, sure, two), values, strict=True):
            assert float(of_logits(name, logits)) == pytest.approx(value, abs=1e-5), name


def test_free_learns_that_shallow_tokens_agree() -> None:
    """Deep layers that write nothing always agree: the threshold falls to the least of its grid."""
    model = silent_from(2)
    high, low, fitted = (
        sum(e == 2 for e in free_exit(model, PROMPT, 2, 40, threshold=t).exits)
        for t in (0.9, 0.3, None)
    )
    assert high < low == fitted


@pytest.mark.parametrize("kv", ["recompute", "copy"])
def test_silent_layers_make_an_exit_before_them_exact(kv) -> None:
    model = silent_from(2)
    full = greedy(model, PROMPT, N)
    oracle = early_exit(model, PROMPT, 0.0, N, measure="oracle", kv=kv)
    assert oracle.new == full.new
    assert max(oracle.exits) <= 2
    assert early_exit(model, PROMPT, 0.0, N, exits=[2], kv=kv).new == full.new
    wrong = early_exit(model, PROMPT, 0.0, N, exits=[1], kv=kv)
    assert wrong.new != full.new  # control: layer 2 does write


def test_free_runs_each_layer_once_per_token_and_never_exits_above_its_threshold(llama) -> None:
    full = greedy(llama, PROMPT, N)
    never = free_exit(llama, PROMPT, 2, N, threshold=1.5)
    assert never.new == full.new
    always = free_exit(llama, PROMPT, 2, N, threshold=0.0)
    assert always.counts.by_layer.get(2, 0) == 0
    assert set(always.exits) == {2}
    model = silent_from(2)
    assert free_exit(model, PROMPT, 2, N, threshold=0.0).new == greedy(model, PROMPT, N).new


def test_free_with_a_threshold_is_early_exit_with_one_exit(atlas) -> None:
    prompt = atlas.tokens("in the")
    a = free_exit(atlas, prompt, 3, 30, threshold=0.5)
    b = early_exit(atlas, prompt, 0.5, 30, exits=[3])
    assert (a.new, a.exits, a.counts.by_layer) == (b.new, b.exits, b.counts.by_layer)


def test_the_fitted_threshold_falls_where_sure_tokens_agree_and_rises_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    good, bad = AgreementMixture(), AgreementMixture()
    for sure in rng.beta(4, 2, 200):
        good.learn([(float(sure), bool(sure > 0.4))])
        bad.learn([(float(sure), bool(rng.random() < 0.05))])
    assert good.threshold < 0.6
    assert bad.threshold == pytest.approx(0.9)


def test_the_threshold_decays_as_published() -> None:
    assert threshold_at(0.8, None, 5, 10) == 0.8
    assert threshold_at(0.8, 4.0, 0, 10) == pytest.approx(0.8)
    assert threshold_at(0.8, 4.0, 10, 10) == pytest.approx(0.72 + 0.08 * np.exp(-4), rel=1e-6)


def test_a_classifier_finds_the_direction_that_decides_and_noise_finds_none() -> None:
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(2, 600, 8, generator=rng) * torch.linspace(0.1, 9, 8)
    agrees = torch.stack((states[0, :, 3] > 1.0, torch.rand(600, generator=rng) > 0.5))
    fitted = fit_exit_classifier(states[:, :400], agrees[:, :400])
    right = [
        float(((fitted(states[i, 400:], i + 1) > 0.5) == agrees[i, 400:]).float().mean())
        for i in range(2)
    ]
    assert right[0] > 0.95
    assert right[1] < 0.6  # control: shuffled labels teach nothing


def test_classes_weigh_alike_however_rare_one_is() -> None:
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2000, 2, generator=rng)
    rare = torch.rand(1, 2000, generator=rng) < 0.1
    assert float(fit_exit_classifier(states, rare)(states[0], 1).mean()) == pytest.approx(
        0.5, abs=0.05
    )


def test_a_saved_classifier_comes_back_and_drives_exits(llama, tmp_path) -> None:
    states = torch.randn(2, 50, llama.card.d_model, generator=torch.Generator().manual_seed(1))
    fitted = fit_exit_classifier(states, states[..., 0] > 0, model=llama.card.fingerprint)
    back = ExitClassifier.load(fitted.save(tmp_path / "c"))
    assert torch.equal(back.weight, fitted.weight)
    a, b = (early_exit(llama, PROMPT, 0.5, N, measure=c) for c in (fitted, back))
    assert (a.new, a.exits) == (b.new, b.exits)
    (tmp_path / "c" / "exit_classifier.safetensors").write_bytes(b"x" * 200)
    with pytest.raises(LensbenchError):
        ExitClassifier.load(tmp_path / "c")


def test_a_classifier_of_another_model_is_refused(llama) -> None:
    states = torch.randn(2, 50, llama.card.d_model, generator=torch.Generator().manual_seed(1))
    other = fit_exit_classifier(states, states[..., 0] > 0, model="0" * 16)
    with pytest.raises(MismatchError, match="another model"):
        early_exit(llama, PROMPT, 0.5, N, measure=other)


def test_calibration_holds_its_bound_on_new_texts() -> None:
    """500 repetitions: a chosen threshold's true risk exceeds delta in at most epsilon."""
    rng = np.random.default_rng(0)
    thresholds = np.linspace(1, 0, 11)
    true = 0.4 * (1 - thresholds)  # risk of each threshold
    broken = chose = 0
    for _ in range(500):
        risks = rng.binomial(20, np.repeat(true[:, None], 60, 1)) / 20
        found = learn_then_test(risks, thresholds.tolist(), delta=0.15, epsilon=0.05)
        chose += found.threshold < 1
        broken += 0.4 * (1 - found.threshold) > 0.15 + 1e-9
    assert broken / 500 <= 0.05
    assert chose > 250  # control: a rule that never exits would hold any bound


def test_so_many_texts_bound_a_risk_and_one_fewer_do_not() -> None:
    from lensbench.interventions.acceleration.exits.calibrate import texts_needed

    assert texts_needed(0.0, 0.1, 0.05) == 29
    assert texts_needed(0.0, 0.05, 0.05) == 59
    assert texts_needed(0.1, 0.1, 0.05) is None
    for risk in (0.0, 0.03, 0.09):
        n = texts_needed(risk, 0.1, 0.05)
        assert n is not None
        found = [
            learn_then_test(np.full((1, m), risk), [0.9], delta=0.1, epsilon=0.05).threshold
            for m in (n - 1, n, n + 1, 2 * n, 5 * n)
        ]
        assert [t == 0.9 for t in found] == [False, True, True, True, True]


def test_p_values_are_those_of_the_binomial_bound() -> None:
    for n, chosen in ((50, 0.9), (25, float("inf"))):  # .9 ** 25 = .072 is not below .05
        found = learn_then_test(np.zeros((1, n)), [0.9], delta=0.1, epsilon=0.05)
        assert found.tested[0][2] == pytest.approx(0.9**n, rel=1e-6)
        assert found.threshold == chosen


def test_calibration_without_a_safe_threshold_says_so() -> None:
    found = learn_then_test(np.ones((2, 30)), [0.9, 0.5])
    assert found.threshold == found.summary()["threshold"] == float("inf")
    assert "no threshold is tested safe" in str(found.plot().layout.title)
    assert found.to_frame()["safe"].tolist() == [False]


def test_a_calibration_is_a_result_that_is_kept_and_drawn(tmp_path) -> None:
    from lensbench import results

    risks = np.repeat([[0.0], [0.01], [0.3]], 50, 1)
    found = learn_then_test(risks, [0.9, 0.6, 0.3], delta=0.1)
    assert results.load(found.save(tmp_path)) == found
    frame = found.to_frame()
    assert frame["safe"].tolist() == [True, True, False]
    assert frame["risk"].tolist() == pytest.approx([0, 0.01, 0.3])
    assert found.summary()["threshold"] == found.threshold == 0.6
    figure = found.plot()
    assert [trace.name for trace in figure.data] == ["tested safe", "not shown to be safe"]
    assert figure.layout.shapes[0].y0 == 0.1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: early_exit(m, PROMPT, -0.1, N), "threshold"),
        (lambda m: early_exit(m, PROMPT, "a", N), "threshold"),
        (lambda m: early_exit(m, PROMPT, 0.5, N, warp=None), "warp must be"),
        (lambda m: early_exit(m, PROMPT, 0.5, N, measure="softmax"), "softmax_max"),
        (lambda m: early_exit(m, PROMPT, 0.5, N, kv="share"), "recompute"),
        (lambda m: early_exit(m, PROMPT, 0.5, N, exits=[]), "no layer"),
        (lambda m: early_exit(m, PROMPT, 0.5, N, exits=[9]), "1 to 3"),
        (lambda m: free_exit(m, PROMPT, 3, N), "1 to 2"),
        (lambda _: fit_exit_classifier(torch.zeros(2, 5, 3), torch.zeros(2, 4).bool()), "tokens"),
        (lambda _: learn_then_test(np.full((1, 3), 2.0), [0.5]), "lie in"),
        (lambda _: learn_then_test(np.zeros((2, 3)), [0.5, 0.7]), "must fall"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(llama, call, words) -> None:
    with pytest.raises(LensbenchError, match=words):
        call(llama)
