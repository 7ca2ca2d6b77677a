"""The desk: its rule, its people, splits, exact probabilities and prompts."""

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from lensbench.errors import ConfigError, UnknownNameError
from lensbench.worlds.atlas import lexicon as lex
from lensbench.worlds.desk import Desk, DeskPrompts
from lensbench.worlds.desk.people import (
    ATTRIBUTES,
    LANGUAGE_OF,
    OUTSIDERS,
    PRIVATE,
    REFUSAL,
    VALUES,
    Register,
)
from lensbench.worlds.desk.scoring import guesses

WORLD, COIN = Desk(0), Desk(0, "coin")


def asked(world: Desk, split: str, n: int, seed: int = 1) -> list[tuple[object, list[str]]]:
    found = world.documents(split, seed, family="questions")  # pyright: ignore[reportArgumentType]
    return list(islice(found, n))


def slots(template: object, words: list[str]) -> dict[str, str]:
    return {name: words[i] for name, i in template.slots.items()}  # pyright: ignore[reportAttributeAccessIssue]


def reply(words: list[str]) -> list[str]:
    """The words between the end of the question and the full stop."""
    ends = [i for i, w in enumerate(words) if w in ("?", ":")]
    return words[ends[-1] + 1 : -2]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_reply_is_the_one_that_the_rule_gives(split: str) -> None:
    """The rule written out again: strangers, and private matters for outsiders, are refused."""
    people, seen = WORLD.people, Counter()
    for template, words in asked(WORLD, split, 1500):
        said = slots(template, words)
        language = LANGUAGE_OF[said["cue"]]
        known = said["last"] in people.known[said["first"]]
        told = known and not (said["attribute"] in PRIVATE and said["asker"] in OUTSIDERS)
        if told:
            value = people.values[said["first"], said["last"], said["attribute"]]
            assert reply(words) == [value if language == "English" else lex.FRENCH[value]]
        else:
            assert reply(words) == list(REFUSAL[language])
        seen[told, known, language] += 1
    assert len(seen) == 6  # answered, private and stranger, in both languages
    assert min(seen.values()) > 60


def test_no_word_alone_tells_a_refusal_but_the_coin_needs_no_word() -> None:
    """Every asker, attribute, cue and name is both answered and refused."""
    both: dict[str, set[str]] = {}
    for template, words in asked(WORLD, "train", 4000):
        for name in ("cue", "asker", "attribute", "first", "last"):
            word = slots(template, words)[name]
            both.setdefault(f"{name} {word}", set()).add(template.facts["class"])  # pyright: ignore[reportAttributeAccessIssue]
    assert len(both) == 6 + 12 + 4 + 16 + 16
    assert all(classes == {"answer", "refuse"} for classes in both.values())


def test_parts_of_names_are_as_frequent_among_known_as_among_strangers() -> None:
    people = WORLD.people
    known = [(f, s) for f, lasts in people.known.items() for s in lasts]
    strangers = [(f, s) for f, lasts in people.strangers.items() for s in lasts]
    assert len(set(known)) == 48
    assert len(set(strangers)) == 208
    assert not set(known) & set(strangers)
    assert len(people.new) == 48
    assert people.new < set(strangers)
    for part in (0, 1):
        for pairs, each in ((known, 3), (strangers, 13), (sorted(people.new), 3)):
            assert set(Counter(p[part] for p in pairs).values()) == {each}


def test_reasons_follow_the_rule_and_strangers_come_first() -> None:
    people = Register(3)
    first = people.firsts[0]
    last, stranger = people.known[first][0], people.strangers[first][0]
    assert people.reason("mother", "fear", first, last) == ""
    assert people.reason("banker", "fear", first, last) == "private"
    assert people.reason("banker", "pet", first, last) == ""
    assert people.reason("mother", "pet", first, stranger) == "stranger"
    assert people.reason("banker", "fear", first, stranger) == "stranger"
    assert set(people.values.values()) <= set(VALUES)
    assert len(people.values) == 48 * len(ATTRIBUTES)


def test_training_never_says_a_held_out_combination_nor_a_new_stranger() -> None:
    def flags(world: Desk, split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
        found = list(islice(world.documents(split, 2), n))  # pyright: ignore[reportArgumentType]
        held = [world.is_held_out(t, w) for t, w in found]
        new = [
            t.family == "questions"
            and (slots(t, w)["first"], slots(t, w)["last"]) in world.people.new
            for t, w in found
        ]
        return np.array(held), np.array(new)

    held, new = flags(WORLD, "train", 4000)
    assert not held.any()
    assert not new.any()
    held, new = flags(WORLD, "heldout", 1500)
    assert held.all()
    assert new.mean() > 0.05  # control: the other split does name them


@pytest.mark.parametrize("seed", range(6))
def test_every_world_seed_can_train_every_template(seed: int) -> None:
    for variant in ("rule", "coin"):
        world = Desk(seed, variant)
        said = {t.name for t, _ in islice(world.documents("train", 0), 4000)}
        assert said == set(world.template_names)


def test_training_says_every_word_that_a_prompt_can_hold() -> None:
    trained = {w for _, words in islice(WORLD.documents("train", 3), 40_000) for w in words}
    held = {w for _, words in islice(WORLD.documents("heldout", 3), 2000) for w in words}
    assert held <= trained
    assert trained <= set(WORLD.vocab)


def test_probabilities_are_exact_where_the_rule_leaves_no_choice_and_where_the_coin_falls() -> None:
    template, words = asked(WORLD, "train", 1)[0]
    del template
    at = len(words) - 2 - len(reply(words))
    predictions = WORLD.mixture("train").trace(words)
    assert predictions[at].probs == pytest.approx({words[at]: 1.0})
    assert predictions[0].entropy > 1  # control: how a document begins is open
    _, words = asked(COIN, "train", 1)[0]
    at = len(words) - 2 - len(reply(words))
    probs = COIN.mixture("train").trace(words)[at].probs
    assert len(probs) == 2
    assert list(probs.values()) == pytest.approx([0.5, 0.5])
    assert set(probs) & {"cannot", "sans"}


def test_sampled_surprise_agrees_with_the_entropy() -> None:
    mixture, gaps = WORLD.mixture("train"), []
    for _, words in islice(WORLD.documents("train", 5), 400):
        trace = mixture.trace(words)
        surprise = sum(-math.log(p.probs[w]) for p, w in zip(trace, words, strict=True))
        gaps.append(surprise - sum(p.entropy for p in trace))
    assert abs(np.mean(gaps)) < 4 * np.std(gaps) / len(gaps) ** 0.5


@pytest.fixture(scope="module")
def prompts() -> DeskPrompts:
    return WORLD.prompts(1500, "heldout", seed=4)


def test_prompts_know_class_reason_language_wording_and_the_right_word(
    prompts: DeskPrompts,
) -> None:
    counts = Counter(prompts.classes.tolist())
    assert set(counts) == {"refuse", "answer", "neutral"}
    assert min(counts.values()) > 400
    refused = prompts.classes == "refuse"
    ids = prompts.refusals
    right = [ids[language] for language in prompts.languages[refused].tolist()]
    assert prompts.answers[refused].tolist() == right
    assert not np.isin(prompts.answers[~refused], list(ids.values())).any()
    assert set(prompts.reasons[refused]) == {"stranger", "private"}
    assert set(prompts.reasons[~refused]) == {""}
    assert (prompts.reasons[prompts.new] == "stranger").all()
    assert set(prompts.languages[prompts.classes == "neutral"]) == {""}
    wordings = [set(prompts.templates[prompts.classes == c]) for c in ("refuse", "answer")]
    assert wordings[0] == wordings[1]  # a wording is no hint
    assert len(wordings[0]) == 5
    for text, ids_ in zip(prompts.texts[:50], prompts.tokens[:50], strict=True):
        assert ["[BOS]", *text.split()] == [WORLD.vocab[t] for t in ids_]
    ends = {text.split()[-1] for text in np.array(prompts.texts)[prompts.classes != "neutral"]}
    assert ends == {"?", ":"}  # the reply is not in the prompt


def test_lengths_are_no_hint(prompts: DeskPrompts) -> None:
    lengths = np.array([len(ids) for ids in prompts.tokens])
    for wording in set(prompts.templates[prompts.classes == "refuse"]):
        assert len(set(lengths[prompts.templates == wording])) == 1


def test_halves_share_no_entity_and_lose_no_prompt(prompts: DeskPrompts) -> None:
    one, other = prompts.halves(3)
    assert len(one) + len(other) == len(prompts)
    assert abs(len(one) - len(other)) < 0.15 * len(prompts)
    assert not set(one.entities) & set(other.entities)
    again = prompts.halves(3)[0]
    assert again.tokens == one.tokens
    assert prompts.halves(4)[0].tokens != one.tokens
    refused = WORLD.prompts(50, of="refuse", seed=2)
    assert set(refused.classes) == {"refuse"}
    assert refused.tokens == WORLD.prompts(50, of="refuse", seed=2).tokens


def test_guessing_is_far_from_the_truth() -> None:
    """Half of the questions are refused, and half of those for reasons that names do not give.

    Who knows the rule about private matters but no person gets .25 + .0625 + .5 of the classes.
    """
    questions = WORLD.prompts(2000, of="questions", seed=5)
    fit = WORLD.prompts(6000, "train", seed=6, of="questions")
    hits = {name: h.mean() for name, h in guesses(questions, fit).items()}
    assert 0.20 < hits["word"] < 0.30
    assert 0.45 < hits["language"] < 0.56
    assert 0.78 < hits["class"] < 0.85


def test_what_the_desk_does_not_have_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="known: rule, coin"):
        Desk(0, "rules")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownNameError, match="train"):
        next(WORLD.documents("test", 0))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownNameError, match="facts"):
        next(WORLD.documents("train", 0, family="fact"))
    with pytest.raises(UnknownNameError, match="neutral"):
        WORLD.prompts(5, of="refused")
    with pytest.raises(ConfigError, match="at least 1"):
        WORLD.prompts(0)
