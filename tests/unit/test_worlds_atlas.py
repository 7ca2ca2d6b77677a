"""Splits, labels, people, tokenizer and files of the atlas."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lensbench.errors import ConfigError
from lensbench.worlds.atlas import Atlas, Corpus, write_jsonl
from lensbench.worlds.atlas.corpus import jsonl

WORLD = Atlas(0)


@pytest.fixture(scope="module")
def mixed() -> Corpus:
    return WORLD.sample(12_000, "all", seed=11)


def held_out_flags(corpus: Corpus) -> np.ndarray:
    return np.array(
        [
            WORLD.is_held_out(WORLD.templates[corpus.template[i]], corpus.words(i)[1:])
            for i in range(corpus.n_docs)
        ]
    )


def test_splits_hold_out_combinations() -> None:
    assert not held_out_flags(WORLD.sample(6000, "train", seed=1)).any()
    assert held_out_flags(WORLD.sample(1500, "heldout", seed=1)).all()
    share = held_out_flags(WORLD.sample(4000, "all", seed=1)).mean()
    assert 0.08 < share < 0.18  # control: the whole world says both; one cell of eight is held out


def test_splits_hold_out_no_token() -> None:
    trained = set(WORLD.sample(30_000, "train", seed=2).tokens.tolist())
    assert set(WORLD.sample(4000, "heldout", seed=2).tokens.tolist()) <= trained
    assert set(WORLD.sample(1000, "unknown", seed=2).tokens.tolist()) <= trained


@pytest.mark.parametrize("seed", range(5))
def test_every_world_seed_can_train_every_template(seed: int) -> None:
    """No template runs out of trainable combinations, whatever was said before its key."""
    world = Atlas(seed)
    corpus = world.sample(8000, "train", seed=0)
    assert len(set(corpus.template.tolist())) == sum(
        t.family != "strangers" for t in world.templates
    )
    for family in ("people", "dictionary", "analogies"):
        world.sample(3000, "train", seed=0, family=family)


def test_unknown_people_are_new_pairs_of_equally_frequent_parts() -> None:
    people = WORLD.people
    known = {(f, s) for f, lasts in people.known.items() for s in lasts}
    unknown = {(f, s) for f, lasts in people.unknown.items() for s in lasts}
    assert len(known) == len(unknown) == 160
    assert not known & unknown
    for part in (0, 1):
        assert Counter(p[part] for p in known) == Counter(p[part] for p in unknown)


def bigrams(corpus: Corpus) -> set[tuple[str, str]]:
    return {pair for i in range(corpus.n_docs) for pair in pairwise(corpus.words(i))}


def test_no_unknown_pair_is_ever_spoken_in_training() -> None:
    unknown = {(f, s) for f, lasts in WORLD.people.unknown.items() for s in lasts}
    corpus = WORLD.sample(4000, "train", seed=4, family="people")
    assert not bigrams(corpus) & unknown
    strangers = WORLD.sample(1000, "unknown", seed=4)
    assert len(bigrams(strangers) & unknown) > 100  # control: the unknown split does speak them


def mixed_tokens(y: np.ndarray, tokens: np.ndarray) -> int:
    """Number of token ids that carry the label in some places and not in others."""
    yes = np.bincount(tokens, weights=y)
    return int(((yes > 0) & (yes < np.bincount(tokens))).sum())


def test_label_kinds_are_true(mixed: Corpus) -> None:
    kinds = Counter(mixed.label_kinds.values())
    assert kinds["contextual"] >= 20
    assert kinds["lexical"] >= 10
    assert set(mixed.labels) == set(mixed.label_kinds)
    for name, kind in mixed.label_kinds.items():
        y = mixed.labels[name]
        assert y.dtype == bool
        assert 0 < y.mean() < 1, name
        if kind == "lexical":
            assert mixed_tokens(y, mixed.tokens) == 0, name
        else:
            assert mixed_tokens(y, mixed.tokens) > 0, name


def test_labels_mean_what_they_say(mixed: Corpus) -> None:
    """Spot checks from the text itself, by other means than the label rules."""
    seen_conflict = seen_greater = seen_key = seen_actor = 0
    for i in range(3000):
        words = mixed.words(i)
        at = slice(int(mixed.offsets[i]), int(mixed.offsets[i + 1]))
        if words[1:3] == ["Compared", "with"]:
            seen_greater += 1
            expected = int(words[3]) > int(words[5])
            assert mixed.labels["left_greater"][at].any() == expected
            assert (words[7] == "smaller") == expected
        if words[1] == "Yesterday":
            seen_conflict += 1
            conflict = words[3].endswith("s") != words[6].endswith("s")
            if "men" not in "".join(words) and "children" not in words:
                assert mixed.labels["number_conflict"][at].any() == conflict
        if words[1] == "List":
            seen_key += 1
            ask = words.index("recall") + 1
            assert mixed.labels["queried_first_key"][at][ask] == (words[ask] == words[2])
        again = [w.isalnum() and w in words[1:j] for j, w in enumerate(words)]
        assert mixed.labels["seen_before"][at].tolist() == again
        if words[1] == "When":
            seen_actor += 1
            acts = next(j for j, w in enumerate(words) if j > 4 and w in (words[2], words[4]))
            assert np.flatnonzero(mixed.labels["actor_again"][at]).tolist() == [acts]
    assert min(seen_conflict, seen_greater, seen_key, seen_actor) > 20


def test_a_corpus_comes_back_from_its_spec(mixed: Corpus) -> None:
    again = Corpus.from_spec(json.loads(json.dumps(mixed.spec)))
    assert np.array_equal(again.tokens, mixed.tokens)
    assert all(np.array_equal(again.labels[k], mixed.labels[k]) for k in mixed.labels)
    other = WORLD.sample(50, "all", seed=12)
    assert not np.array_equal(other.tokens[:100], mixed.tokens[:100])  # control: seeds matter


def test_rows_join_documents_and_positions(mixed: Corpus) -> None:
    rows = mixed.rows(mixed.doc_ids, mixed.positions)
    assert np.array_equal(rows, np.arange(len(mixed.tokens)))
    assert mixed.tokens[mixed.rows(np.array([5]), np.array([1]))[0]] == mixed.document(5)[1]
    with pytest.raises(ConfigError, match="past the end"):
        mixed.rows(np.array([5]), np.array([99]))
    with pytest.raises(ConfigError, match="document ids"):
        mixed.rows(np.array([mixed.n_docs]), np.array([0]))


def test_tokenizer_round_trip(tmp_path: Path, mixed: Corpus) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WORLD.save_tokenizer(tmp_path))
    assert len(tokenizer) == len(WORLD.vocab) <= 1500
    for i, text in enumerate(mixed.texts()[:2000]):
        ids = tokenizer(text)["input_ids"]
        assert ids == mixed.document(i)[:-1].tolist()
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("xyzzy")["input_ids"][1] == tokenizer.unk_token_id  # control


def test_vocab_does_not_depend_on_seed_or_variant() -> None:
    assert Atlas(3).vocab == Atlas(0, "equal").vocab == WORLD.vocab


def test_variants_differ_in_their_languages() -> None:
    def shares(world: Atlas) -> dict[str, float]:
        corpus = world.sample(6000, "train", seed=0, family="dictionary")
        return {k: corpus.labels[k].sum() for k in ("from_english", "from_french", "to_german")}

    dominant, equal = shares(WORLD), shares(Atlas(0, "equal"))
    assert dominant["from_english"] > 1.3 * dominant["from_french"]
    assert 0.8 < equal["from_english"] / equal["from_french"] < 1.25


def test_jsonl(tmp_path: Path) -> None:
    corpus = WORLD.sample(20, "heldout", seed=1)
    lines = write_jsonl(corpus, tmp_path / "a.jsonl").read_text().splitlines()
    assert lines == list(jsonl(corpus))
    row = json.loads(lines[3])
    assert row == {"id": 3, "text": corpus.texts()[3], "family": row["family"],
                   "template": corpus.templates[corpus.template[3]]}  # fmt: skip


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Atlas(0, "dutch"), "no variant 'dutch'"),
        (lambda: WORLD.sample(5, "test"), "no split 'test'"),
        (lambda: WORLD.sample(0), "at least 1"),
        (lambda: WORLD.sample(5, family="verbs"), "no family 'verbs'"),
        (lambda: WORLD.questions("garden", 3), "no certain answers"),
        (lambda: Corpus.from_spec({"world": "othello"}), "not of 'atlas'"),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_one_line_says_which_world_it_is() -> None:
    assert repr(WORLD) == (
        f"Atlas(seed={WORLD.seed}, variant='{WORLD.variant}': {len(WORLD.vocab)} words, "
        f"{len(WORLD.templates)} templates)"
    )
