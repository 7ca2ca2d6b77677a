"""Explanations of latents of which it is known what they fire on; judges whose score is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import explanation_worlds as worlds
from tests.explanation_worlds import AFTER, ALWAYS, DEAD, HIDDEN, LUCK, OR

SCORED = [OR, AFTER, LUCK, HIDDEN]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    return worlds.stores(tmp_path_factory.mktemp("explanations"))


@pytest.fixture(scope="module")
def found(world: tuple[Any, Any, Any]) -> Any:
    from lensbench import saes

    store, latents, text = world
    return saes.explain(latents, range(6), tokenizer=worlds.Words(text.vocab), store=store)


def gathered(latents: Any, latent: int, **changes: Any) -> Any:
    from lensbench.saes.explanations.contexts import ContextConfig, Windows, gather

    config = ContextConfig(**changes)
    return gather(latents, Windows.of(latents.index(), config), latent, config)


def accuracy(result: Any, latent: int, scorer: str) -> float:
    return float(result.values("explanation", scorer)[list(result.latents).index(latent)])


def test_judges_of_known_worth_score_what_they_are_worth() -> None:
    # The table "scrub autointerp" of the literature: oracle 1/1, all yes F1 2/3 but BA .5, coin
    # about .5, an explanation that finds half of the firing contexts F1 2/3 and BA .75.
    from lensbench.saes.explanations.scoring import score_answers

    truth = [True] * 500 + [False] * 500
    coin = np.random.default_rng(0).integers(0, 2, 1000).astype(bool).tolist()
    oracle, yes, random, half = (
        score_answers(truth, answers)
        for answers in (truth, [True] * 1000, coin, [i < 250 for i in range(1000)])
    )
    assert (oracle.f1, oracle.balanced_accuracy) == (1, 1)
    assert yes.f1 == pytest.approx(2 / 3)
    assert yes.balanced_accuracy == 0.5
    assert random.balanced_accuracy == pytest.approx(0.5, abs=0.04)
    assert half.f1 == pytest.approx(2 / 3)
    assert half.balanced_accuracy == 0.75
    # Balanced accuracy does not care how many of each there are; accuracy does.
    lopsided = score_answers([True] * 900 + [False] * 100, [True] * 1000)
    assert (lopsided.balanced_accuracy, lopsided.accuracy) == (0.5, 0.9)
    silent = score_answers([True, False], [None, None])  # no answer is a wrong answer
    assert (silent.balanced_accuracy, silent.unanswered) == (0, 2)


def test_what_tokens_tell_is_found_and_what_they_do_not_tell_is_not(found: Any, world: Any) -> None:
    for scorer in ("detection", "fuzzing"):
        assert accuracy(found, OR, scorer) == 1
        assert accuracy(found, AFTER, scorer) == 1
        assert accuracy(found, LUCK, scorer) == pytest.approx(0.5, abs=0.12)
    # Which full stops fire no token tells: the marks are right, the contexts a guess.
    assert accuracy(found, HIDDEN, "fuzzing") == 1
    assert accuracy(found, HIDDEN, "detection") == pytest.approx(0.5, abs=0.12)
    for country in worlds.commonest(world[2]):
        assert repr(country) in found.texts[OR]
    assert found.texts[AFTER] == "Fires on the token after 'in'."


def test_controls_stand_at_chance(found: Any) -> None:
    for source in ("shuffled", "coin"):
        for scorer in ("detection", "fuzzing"):
            known = found.values(source, scorer)[SCORED]
            assert np.abs(known - 0.5).max() < 0.2, (source, scorer)
            assert abs(known.mean() - 0.5) < 0.1
    assert np.all(found.all_yes[SCORED] == 0.5)
    strong = found.values("explanation", "detection")[[OR, AFTER]].mean()
    assert found.mean("random_dictionary", "detection").mean < strong - 0.2
    assert "random_dictionary, detection" in found.controls.values


def test_latents_that_cannot_be_scored_say_why(found: Any) -> None:
    at = list(found.latents).index
    assert found.missing[at(DEAD)] == "it never fires"
    assert "silent contexts" in found.missing[at(ALWAYS)]
    assert np.isnan(found.scores[[at(DEAD), at(ALWAYS)]]).all()
    assert found.summary()["latents scored"] == 4
    assert found.mean("explanation", "detection").n == 4


def test_half_an_explanation_scores_its_half(world: Any) -> None:
    from lensbench.saes.explanations.explainers import Explanation, TokenExplainer
    from lensbench.saes.explanations.judges import OracleJudge, RuleJudge
    from lensbench.saes.explanations.rules import TokenRule
    from lensbench.saes.explanations.scoring import detection, fuzzing

    evidence = gathered(world[1], OR)
    whole = TokenExplainer().explain(OR, evidence.explain)
    assert whole.rule is not None
    assert {c.kind for c in whole.rule.clauses} == {"token"}
    half = Explanation(OR, "half", TokenRule(whole.rule.clauses[:1]))
    key = whole.rule.clauses[0].key
    firing = [c for c in evidence.score if c.kind == "firing"]
    share = np.mean([key in c.tokens for c in firing])
    assert 0.3 < share < 0.9
    score = detection(half, evidence, RuleJudge())
    assert score.tpr == pytest.approx(share)
    assert score.balanced_accuracy == pytest.approx((1 + share) / 2)
    for scorer in (detection, fuzzing):
        assert scorer(half, evidence, OracleJudge()).balanced_accuracy == 1


def test_contexts_are_what_they_are_called(world: Any) -> None:
    _, latents, text = world
    truth, evidence = worlds.planted(text), gathered(latents, HIDDEN, window=8)
    docs = [{c.doc for c in half} for half in (evidence.explain, evidence.score)]
    assert not docs[0] & docs[1], "no document both explains and scores"
    for half in (evidence.explain, evidence.score):
        firing = [c for c in half if c.kind == "firing"]
        assert len(firing) * 2 == len(half)
        tops = {int(c.tokens[c.acts.argmax()]) for c in firing}
        for c in half:
            rows = text.rows(np.full(len(c.tokens), c.doc), c.positions)
            np.testing.assert_array_equal(text.tokens[rows], c.tokens)
            np.testing.assert_allclose(c.acts, truth[rows, HIDDEN], atol=1e-6)
            assert len(c.tokens) <= 8
            assert c.fires.any() == (c.kind == "firing")
            if c.kind == "hard":
                assert tops & set(c.tokens.tolist())
        assert sum(c.kind == "hard" for c in half) == len(firing) // 2
    strength = {q: [] for q in range(10)}
    for c in evidence.explain:
        if c.kind == "firing":
            strength[c.quantile].append(c.acts.max())
    counts = [len(v) for v in strength.values()]
    assert max(counts) - min(counts) <= 1
    means = [np.mean(v) for v in strength.values()]
    assert means == sorted(means)


def test_marks_are_as_many_and_only_on_silent_tokens(world: Any) -> None:
    from lensbench.saes.explanations.contexts import with_marks

    evidence = gathered(world[1], LUCK)
    contexts, truth = with_marks(evidence.score, seed=0)
    assert sum(truth) * 2 == len(truth) > 50
    for right, wrong in zip(contexts[::2], contexts[1::2], strict=True):
        np.testing.assert_array_equal(right.marked, right.fires)
        assert wrong.marked.sum() == right.marked.sum()
        assert not (wrong.marked & (wrong.acts != 0)).any()


def test_a_judge_gets_no_activations(world: Any) -> None:
    from lensbench.saes.explanations.explainers import Explanation
    from lensbench.saes.explanations.scoring import both_scores

    class Peeking:
        name = "peeking"

        def detect(self, explanation: Any, contexts: Any) -> list[bool | None]:
            del explanation
            return [bool(c.fires.any() or c.acts.any() or c.kind == "firing") for c in contexts]

        fuzz = detect

    scores = both_scores(Explanation(OR, ""), gathered(world[1], OR), Peeking())
    assert np.all(scores[:, 0] == 0.5)


def test_a_threshold_leaves_weak_firing_out_of_both_classes(world: Any) -> None:
    evidence = gathered(world[1], AFTER, threshold=0.6)
    largest = worlds.planted(world[2])[:, AFTER].max()
    for c in evidence.explain:
        strongest = c.acts.max()
        assert strongest > 0.6 * largest if c.kind == "firing" else strongest == 0


def test_explanations_come_back_from_disk_and_show_themselves(found: Any, tmp_path: Path) -> None:
    from lensbench.results import load

    assert load(found.save(tmp_path)) == found
    frame = found.to_frame()
    assert len(frame) == 12
    assert {"latent", "scorer", "balanced_accuracy", "tnr_hard", "shuffled", "n"} <= set(frame)
    assert found.plot().data
    names = [trace.name for trace in found.plot_latents().data]
    assert names == ["explanation", "shuffled", "random dictionary"]


def test_equal_seeds_give_equal_results_and_others_do_not(world: Any) -> None:
    from lensbench import saes

    one, same, other = (
        saes.explain(world[1], [LUCK], config=saes.ContextConfig(seed=seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.scores, same.scores)
    assert one.texts == same.texts
    assert one.texts != other.texts
    assert np.isnan(one.shuffled).all()  # nobody to exchange with


@pytest.mark.parametrize(
    ("chosen", "words"),
    [([], "got none"), ([6], r"from 0 to 5; got \[6\]"), ([1, 1], "listed twice"), (["a"], "'a'")],
)
def test_bad_latents_are_refused(world: Any, chosen: Any, words: str) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=words):
        saes.explain(world[1], chosen)


def test_words_without_a_rule_need_a_judge_that_reads(world: Any) -> None:
    from lensbench import saes
    from lensbench.errors import ConfigError

    class Poet:
        name = "poet"

        def explain(self, latent: int, contexts: Any) -> Any:
            del contexts
            return saes.Explanation(latent, "something about countries")

    with pytest.raises(ConfigError, match="--judge endpoint"):
        saes.explain(world[1], [OR], explainer=Poet())
    with pytest.raises(ConfigError, match="explainer must have name and explain"):
        saes.explain(world[1], [OR], explainer=lambda _: "")
