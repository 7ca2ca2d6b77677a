"""The exact engine against enumeration by hand, and the floor against sampled text."""

import math
import random
from itertools import product

import numpy as np
import pytest

from lensbench.errors import DataError
from lensbench.worlds.atlas import Atlas
from lensbench.worlds.atlas.build import Family
from lensbench.worlds.atlas.grammar import Dist, HoldOut, Template, calc, draw
from lensbench.worlds.atlas.mixture import Mixture

A = {"p": 0.5, "q": 0.3, "r": 0.2}
SUCCESSOR = {"p": "q", "q": "r", "r": "p"}
PRIORS = {"differ": 2.0, "next": 1.0, "other": 3.0}


def tiny_templates() -> list[Template]:
    """Three templates; two begin alike, so the mixture has something to marginalise."""
    family = Family("tiny")
    a = draw(Dist.weighted(A))
    family.add("differ", "x {a} {b} .", {"a": a, "b": draw(Dist.weighted(A), "a")}, key="ab",
               weight=PRIORS["differ"])  # fmt: skip
    slots = {"a": a, "b": calc(SUCCESSOR.__getitem__, "a")}
    family.add("next", "x {a} {b} !", slots, key="a", weight=PRIORS["next"])
    family.add("other", "y {a} .", {"a": a}, key="a", weight=PRIORS["other"])
    return family.templates


def sentences_by_hand(hold: HoldOut | None) -> dict[tuple[str, ...], float]:
    """Every sentence of the tiny world with its probability, from the definition alone."""
    differ, following, other = tiny_templates()
    total = sum(PRIORS.values())
    out: dict[tuple[str, ...], float] = {}

    def allowed(template: Template, *key: str) -> bool:
        return hold is None or not hold.holds(template, key)

    for a, b in product(A, A):
        rest = {w: A[w] for w in A if w != a and allowed(differ, a, w)}
        if b in rest:
            p = PRIORS["differ"] / total * A[a] * rest[b] / sum(rest.values())
            out["x", a, b, ".", "[EOS]"] = p
    for template, name, say in (
        (following, "next", lambda a: ("x", a, SUCCESSOR[a], "!", "[EOS]")),
        (other, "other", lambda a: ("y", a, ".", "[EOS]")),
    ):
        may = {a: A[a] for a in A if allowed(template, a)}
        for a, p in may.items():
            out[say(a)] = PRIORS[name] / total * p / sum(may.values())
    return out


def next_by_hand(world: dict[tuple[str, ...], float], prefix: tuple[str, ...]) -> dict[str, float]:
    alive = {s: p for s, p in world.items() if s[: len(prefix)] == prefix and len(s) > len(prefix)}
    out: dict[str, float] = {}
    for s, p in alive.items():
        out[s[len(prefix)]] = out.get(s[len(prefix)], 0.0) + p / sum(alive.values())
    return out


def entropy(probs: dict[str, float]) -> float:
    return -sum(p * math.log(p) for p in probs.values())


def usable_hold() -> HoldOut:
    """The first seed that holds something out and leaves every prefix a way on."""
    for seed in range(100):
        hold = HoldOut(seed, parts=3)
        differ, following, other = tiny_templates()
        held = sum(hold.holds(differ, (a, b)) for a, b in product(A, A) if a != b)
        free = all(any(b != a and not hold.holds(differ, (a, b)) for b in A) for a in A)
        ends = all(any(not hold.holds(t, (a,)) for a in A) for t in (following, other))
        if held and free and ends:
            return hold
    raise AssertionError("no seed of the tiny world holds anything out")


@pytest.mark.parametrize("held", [False, True], ids=["whole", "held-out"])
def test_predictions_equal_enumeration_at_every_prefix(held: bool) -> None:
    hold = usable_hold() if held else None
    world = sentences_by_hand(hold)
    assert sum(world.values()) == pytest.approx(1.0)
    mixture = Mixture(tiny_templates(), held_out=hold)
    for sentence in world:
        for i, prediction in enumerate(mixture.trace(sentence)):
            truth = next_by_hand(world, sentence[:i])
            assert prediction.probs == pytest.approx(truth)
            assert prediction.entropy == pytest.approx(entropy(truth), abs=1e-12)
            assert truth[prediction.bayes] == pytest.approx(max(truth.values()))


def test_without_marginalising_the_entropy_is_another_one() -> None:
    """Control: knowing the template gives a smaller entropy than reading the prefix."""
    whole = Mixture(tiny_templates())
    alone = Mixture(tiny_templates()[:1])
    sentence = ("x", "p", "q", ".", "[EOS]")
    assert alone.trace(sentence)[0].entropy == 0.0
    assert whole.trace(sentence)[0].entropy > 0.5
    assert abs(alone.trace(sentence)[2].entropy - whole.trace(sentence)[2].entropy) > 0.05


def test_a_sentence_of_another_world_is_refused() -> None:
    with pytest.raises(DataError, match="cannot say 'p'"):
        Mixture(tiny_templates()).trace(("x", "p", "p", "."))


def test_samples_have_the_enumerated_frequencies() -> None:
    world, mixture, rng = sentences_by_hand(None), Mixture(tiny_templates()), random.Random(0)
    n, counts = 20_000, dict.fromkeys(sentences_by_hand(None), 0)
    for _ in range(n):
        counts[tuple(mixture.sample(rng)[1])] += 1
    for sentence, p in world.items():
        assert abs(counts[sentence] / n - p) < 5 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("split", ["train", "all", "unknown"])
def test_sampled_surprise_equals_mean_entropy(split: str) -> None:
    corpus = Atlas(0).sample(1500, split, seed=7)  # type: ignore[arg-type]
    gap = np.add.reduceat(corpus.nll - corpus.entropy, corpus.offsets[:-1])
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap))
    assert corpus.nll.sum() > 0


def test_surprise_under_the_wrong_world_is_higher() -> None:
    """Control: strangers marginalised in, training text costs more than its entropy."""
    world = Atlas(0)
    corpus = world.sample(1500, "train", seed=7)
    wrong = world.mixture("all")
    cost = np.zeros(corpus.n_docs)
    for i in range(corpus.n_docs):
        words = corpus.words(i)[1:]
        predictions = wrong.trace(words)
        cost[i] = -sum(math.log(p.probs[w]) for p, w in zip(predictions, words, strict=True))
    right = np.add.reduceat(corpus.nll, corpus.offsets[:-1])
    gap = cost - right
    assert gap.mean() > 4 * gap.std() / math.sqrt(len(gap))


@pytest.mark.parametrize("variant", ["english", "equal"])
def test_every_question_has_the_bayes_answer(variant: str) -> None:
    world = Atlas(0, variant)  # type: ignore[arg-type]
    for family in ("facts", "analogies", "recall", "ioi", "induction", "agreement", "comparison",
                   "letters", "dictionary", "people"):  # fmt: skip
        asked = world.questions(family, 60, "heldout", seed=3)
        for prompt, answer, foil in zip(asked.prompts, asked.answers, asked.foils, strict=True):
            words = [*(world.vocab[t] for t in prompt[1:]), world.vocab[answer]]
            last = world.mixture("world").trace(words)[-1]
            assert last.bayes == words[-1]
            assert last.entropy < 1e-9, (family, words)
            assert last.probs.get(world.vocab[foil], 0.0) == 0.0
