"""The acceptance rule on a Markov chain of 8 tokens whose draft and target are known exactly."""

import numpy as np
import pytest
import torch
from scipy import stats

import lensbench
from lensbench.interventions.acceleration import (
    Warp,
    draft_and_verify,
    dynamic_exit,
    fixed_exit,
    speculative_baseline,
)
from lensbench.interventions.acceleration.sampling import Sampler
from lensbench.interventions.acceleration.speculative.schedules import ConfidenceStop
from tests.helpers import tiny

V, GAMMA, TOKENS = 8, 4, 12_000
RNG = np.random.default_rng(7)
TARGET = torch.tensor(RNG.dirichlet(np.ones(V), V))
DRAFT = 0.6 * TARGET + 0.4 * torch.tensor(RNG.dirichlet(np.ones(V), V))


class ResamplesFromTheTarget(Sampler):
    """Wrong on purpose: a refused draft is replaced by a draw from p, not by one from the rest."""

    def check(self, drafts, drawn_from, logits):
        p = self.warp(logits)
        for i, (draft, q) in enumerate(zip(drafts, drawn_from, strict=True)):
            if self.uniform() * float(q[draft]) > float(p[i, draft]):
                return i, self._pick(p[i])
        return len(drafts), self._pick(p[len(drafts)])


class DraftsGreedily(Sampler):
    """Wrong on purpose: the draft is the likeliest token, but q is said to be the softmax."""

    def draw_with(self, logits):
        return int(logits.argmax()), self.warp(logits)


def chain(sampler: Sampler, target: torch.Tensor, draft: torch.Tensor, tokens: int, gamma: int):
    """A text by rounds of drafting; its tokens and the number of rounds."""
    text, rounds = [0], 0
    log_p, log_q = target.log(), draft.log()
    while len(text) <= tokens:
        drafts, drawn = [], []
        for _ in range(gamma):
            token, q = sampler.draw_with(log_q[drafts[-1] if drafts else text[-1]])
            drafts.append(token)
            drawn.append(q)
        kept, after = sampler.check(drafts, drawn, log_p[[text[-1], *drafts]])
        text += [*drafts[:kept], after]
        rounds += 1
    return text, rounds


def p_of_transitions(text: list[int]) -> float:
    """Chi-square test of the counted transitions against the target's rows."""
    counts = np.zeros((V, V))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    expected = counts.sum(1, keepdims=True) * TARGET.numpy()
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), V * (V - 1)))


def test_a_warp_keeps_the_tokens_it_says() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = {
        Warp(1.0): [0.5, 0.3, 0.15, 0.05],
        Warp(1.0, top_k=2): [0.625, 0.375, 0, 0],
        Warp(1.0, top_p=0.75): [0.625, 0.375, 0, 0],  # the token that reaches the sum stays
        Warp(1.0, top_p=0.4): [1, 0, 0, 0],
        Warp(1.0, top_k=3, top_p=0.51): [1, 0, 0, 0],  # after top-k .5 has become .526
        Warp(0.5): [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365],
        Warp(): [1, 0, 0, 0],
    }
    for warp, probs in kept.items():
        np.testing.assert_allclose(warp(logits).numpy(), probs, atol=1e-6)


def test_warps_are_those_of_transformers() -> None:
    from transformers.generation import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)).double()
    for warp in (Warp(0.7, top_k=5), Warp(1.3, top_p=0.8), Warp(0.9, top_k=7, top_p=0.6)):
        scores = TemperatureLogitsWarper(warp.temperature)(None, logits)
        if warp.top_k:
            scores = TopKLogitsWarper(warp.top_k)(None, scores)
        if warp.top_p < 1:
            scores = TopPLogitsWarper(warp.top_p)(None, scores)
        torch.testing.assert_close(warp(logits), scores.softmax(-1))


def test_the_rule_gives_the_target_and_its_two_wrong_versions_do_not() -> None:
    warp = Warp(temperature=1.0)
    p, rounds = {}, {}
    for rule in (Sampler, ResamplesFromTheTarget, DraftsGreedily):
        text, rounds[rule] = chain(rule(warp, 0), TARGET, DRAFT, TOKENS, GAMMA)
        p[rule] = p_of_transitions(text)
    assert p[Sampler] > 0.01
    assert p[ResamplesFromTheTarget] < 1e-9
    assert p[DraftsGreedily] < 1e-9
    assert TOKENS / rounds[Sampler] > 2  # drafts are really kept


@pytest.mark.parametrize("gamma", [1, 2, 4, 8])
def test_tokens_per_round_are_those_of_the_formula(gamma) -> None:
    """(1 - alpha^(gamma+1)) / (1 - alpha) with alpha = sum min(p, q), draws being independent."""
    p, q = TARGET[:1].expand(V, V), DRAFT[:1].expand(V, V)
    alpha = float(torch.minimum(p[0], q[0]).sum())
    expected = (1 - alpha ** (gamma + 1)) / (1 - alpha)
    text, rounds = chain(Sampler(Warp(1.0), gamma), p, q, round(6000 * expected), gamma)
    assert (len(text) - 1) / rounds == pytest.approx(expected, rel=0.02)


ENGINES = {
    "fixed": lambda m, **k: fixed_exit(m, [[3, 5]], 1, 2, 3, **k),
    "del": lambda m, **k: dynamic_exit(m, [[3, 5]], 3, **k),
    "skips": lambda m, **k: draft_and_verify(
        m, [[3, 5]], [("mlp", 1)], 3, schedule=ConfidenceStop(0.0, 2), **k
    ),
    "itself": lambda m, **k: speculative_baseline(m, [[3, 5]], m, 2, 3, **k),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", list(ENGINES))
def test_sampled_texts_of_an_engine_are_distributed_as_the_model_says(engine) -> None:
    warp, runs = Warp(temperature=0.9, top_k=4, top_p=0.97), 1500
    module = tiny("llama", seed=3, vocab_size=8, num_hidden_layers=2)
    model = lensbench.load_model(module, certify=False)
    expected: dict[tuple[int, ...], float] = {}

    def grow(text: list[int], weight: float) -> None:
        if len(text) == 5:
            expected[tuple(text[2:])] = weight
            return
        for token, p in enumerate(warp(model.run([text]).logits[0, -1]).tolist()):
            if p:
                grow([*text, token], weight * p)

    grow([3, 5], 1.0)
    found = [ENGINES[engine](model, warp=warp, seed=s).new for s in range(runs)]
    assert set(found) <= set(expected)
    common = [t for t, w in expected.items() if w * runs >= 5]
    seen = [found.count(t) for t in common]
    want = [expected[t] * runs for t in common]
    if len(common) < len(expected):
        seen.append(runs - sum(seen))
        want.append(runs - sum(want))
    assert stats.chisquare(seen, want).pvalue > 0.001
