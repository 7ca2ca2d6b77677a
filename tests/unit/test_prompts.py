"""Prompt tasks on tokenizers of every manner: alignment, positions, filtering, refusals."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from lensbench import prompts
from lensbench.errors import ConfigError, DamagedDataError, NotEnoughDataError, UnknownNameError
from lensbench.prompts import PromptPairs, words
from lensbench.tokens import token_texts
from tests import tokenizers_for_chat as made

POOLS = (
    words.NAMES,
    words.PLAIN,
    words.COLOURS,
    words.THINGS,
    words.PLACES,
    words.GIFTS,
    [*words.PLURALS, *words.PLURALS.values()],
    words.lex.NUMBERS,
    words.lex.LETTERS,
)
SENTENCES = """Today. When they went to the store, she gave a drink to me. Then they had a long day
at the park, and he handed the book. After we left, friends met at the school, where he sent a kiss.
The first letter of the word is the one that seems near behind beside under. I think Yesterday the
war lasted from the year 1732 to the year 17. Sorry Sure Here Tell me how to help my neighbour. are
were was seem knows sees likes has Request: Answer: """.replace("\n", " ")
CORPUS = [*("".join(f" {w}" for w in pool) for pool in POOLS), SENTENCES] * 6
KINDS = {
    "byte-level": lambda: made.byte_level(corpus=CORPUS, size=2600, digits=2),
    "byte-level, trimmed": lambda: made.byte_level(
        corpus=CORPUS, size=2600, digits=2, trim_offsets=True
    ),
    "byte-level, digits": lambda: made.byte_level(corpus=CORPUS, size=2600, digits=1),
    "metaspace": lambda: made.metaspace(corpus=CORPUS, size=2400),
}
_MADE: dict[str, object] = {}


def tokenizer(kind: str):
    if kind not in _MADE:
        _MADE[kind] = KINDS[kind]()
    return _MADE[kind]


def role_words(pairs: PromptPairs, role: str, tok, row: int, ids) -> str:
    return token_texts(tok, [ids[row][pairs.roles[role][row]]])[0].strip()


@pytest.mark.parametrize(("kind", "task"), list(product(KINDS, prompts.TASKS)))
def test_pairs_are_aligned_and_their_answers_are_the_next_token(kind: str, task: str) -> None:
    tok = tokenizer(kind)
    pairs = prompts.TASKS[task](tok, 30, 1)
    assert len(pairs) == 30
    assert len(set(zip(pairs.clean_texts, pairs.corrupted_texts, strict=True))) == 30
    for row in range(30):
        clean, corrupted = pairs.clean_ids[row], pairs.corrupted_ids[row]
        assert len(clean) == len(corrupted)
        assert clean != corrupted
        assert pairs.answer[row] != pairs.foil[row]
        start = [] if pairs.task == "refusal" else [tok.bos_token_id]  # its template has one
        for text, ids in (
            (pairs.clean_texts[row], clean),
            (pairs.corrupted_texts[row], corrupted),
        ):
            assert start + tok(text, add_special_tokens=False)["input_ids"] == list(ids)
            for words_, token in (
                (pairs.answer_texts[row], pairs.answer[row]),
                (pairs.foil_texts[row], pairs.foil[row]),
            ):
                longer = tok(text + words_, add_special_tokens=False)["input_ids"]
                assert longer[len(ids) - len(start)] == token
        assert all(-1 <= places[row] < len(clean) for places in pairs.roles.values())
        assert pairs.roles["end"][row] == len(clean) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_where_the_words_are(kind: str) -> None:
    tok = tokenizer(kind)
    pairs = prompts.ioi(tok, 40, 0)
    for row in range(40):
        told = [role_words(pairs, r, tok, row, pairs.clean_ids) for r in
                ("indirect_object", "subject", "subject_again")]  # fmt: skip
        assert told[0] == pairs.answer_texts[row].strip()
        assert told[1] == told[2] == pairs.foil_texts[row].strip()
        assert role_words(pairs, "subject_again", tok, row, pairs.corrupted_ids) == told[0]
        differ = np.flatnonzero(np.array(pairs.clean_ids[row]) != pairs.corrupted_ids[row])
        assert differ.tolist() == [pairs.roles["subject_again"][row]]
    first = np.array(pairs.roles["indirect_object"]) < np.array(pairs.roles["subject"])
    assert 5 < first.sum() < 35  # both orders of mention


def test_other_tasks_put_their_roles_on_the_right_words() -> None:
    tok = tokenizer("byte-level")
    pairs = prompts.recall(tok, 20, 0)
    for row in range(20):
        said = {r: role_words(pairs, r, tok, row, pairs.clean_ids) for r in pairs.roles}
        assert said["value"] == pairs.answer_texts[row].strip()
        assert said["foil_value"] == pairs.foil_texts[row].strip()
        assert said["query"] == said["key"] != said["foil_key"]
        other = role_words(pairs, "value", tok, row, pairs.corrupted_ids)
        assert other == said["foil_value"]
    verbs = prompts.agreement(tok, 40, 0)
    singular = {"is", "was", "seems"}
    for row in range(40):
        noun = verbs.clean_texts[row].split()[2 if verbs.wordings[row] in ("past",) else 1]
        noun = verbs.clean_texts[row].split()[-1] if verbs.wordings[row] == "plain" else noun
        assert (noun in words.PLURALS) == (verbs.answer_texts[row].strip() in singular)
        if verbs.wordings[row] == "plain":
            assert verbs.roles["distractor"][row] == -1


@pytest.mark.parametrize("kind", ["byte-level", "byte-level, digits"])
def test_later_years_are_answers_and_earlier_ones_foils(kind: str) -> None:
    tok = tokenizer(kind)
    pairs = prompts.greater_than(tok, 60, 3)
    assert set(pairs.wordings) == {"years"}
    tens = kind.endswith("digits")
    for row in range(60):
        start = int(pairs.clean_texts[row].split(" to the year")[0][-2:])
        answer, foil = int(pairs.answer_texts[row]), int(pairs.foil_texts[row])
        assert answer > start >= foil
        assert not tens or answer // 10 > start // 10 > foil // 10
        assert pairs.corrupted_texts[row].split(" to the year")[0].endswith("01")
    assert not pairs.flips
    numbers = prompts.greater_than(tok, 10, 0, form="numbers")
    assert set(numbers.wordings) <= {"of", "is", "with"}


def test_years_that_are_one_token_fall_back_to_numbers() -> None:
    whole = [f" the year {c}{y:02d} to" for c in range(11, 19) for y in range(100)] * 3
    tok = made.byte_level(corpus=CORPUS + whole, size=4200)
    assert len(tok.tokenize(" 1732")) == 1
    assert set(prompts.greater_than(tok, 5).wordings) <= {"of", "is", "with"}
    with pytest.raises(NotEnoughDataError, match="0 of 776 are left"):
        prompts.greater_than(tok, 5, form="years")


def test_years_that_are_one_token_leave_the_others_of_their_century() -> None:
    tok = made.byte_level(corpus=[*CORPUS, *[" from 1776 to 1789 in 1800"] * 40], size=2900)
    assert [len(tok.tokenize(f" {y}")) for y in (1776, 1741)] == [1, 3]
    pairs = prompts.greater_than(tok, 80, form="years")
    starts = {t.split(" to the year")[0][-4:] for t in pairs.clean_texts}
    assert {s[:2] for s in starts} == {"11", "12", "13", "14", "15", "16", "17", "18"}
    assert not starts & {"1776", "1789", "1800"}


def groups_of_three():
    """Llama 3's manner: up to three digits a token, the space before them another."""
    if "three" not in _MADE:
        numbers = [f"{n:03d} {n} greater smaller" for n in range(1000)] * 3
        _MADE["three"] = made.byte_level(
            corpus=CORPUS + numbers, size=4200, digits=3, spaced_digits=False
        )
    return _MADE["three"]


def test_digits_in_groups_of_three_leave_comparisons_of_numbers() -> None:
    tok = groups_of_three()
    assert token_texts(tok, tok(" 1732 31", add_special_tokens=False)["input_ids"]) == [
        " ", "173", "2", " ", "31"
    ]  # fmt: skip
    pairs = prompts.greater_than(tok, 60, 0)
    assert set(pairs.wordings) == {"of", "is", "with"}
    for row, wording in enumerate(pairs.wordings):
        left, right = (role_words(pairs, r, tok, row, pairs.clean_ids) for r in ("left", "right"))
        text, answer = pairs.clean_texts[row], pairs.answer_texts[row]
        low, high = sorted((int(left), int(right)))
        if wording == "of":
            assert text.endswith(" is ")  # the space is a token, so it belongs to the prompt
            assert answer == str(high if "greater" in text else low)
        elif wording == "is":
            says = int(left) == (high if "greater" in text else low)
            assert answer == (" Yes" if says else " No")
        else:
            assert answer == (" greater" if int(right) == high else " smaller")


def test_years_that_cannot_be_cut_are_an_error_that_shows_their_tokens() -> None:
    words_ = r"0 of 776 are left .*'1732' is ' '\|'173'\|'2'.*'17' is ' '\|'17'"
    with pytest.raises(NotEnoughDataError, match=words_):
        prompts.greater_than(groups_of_three(), 5, form="years")


def test_words_that_are_split_are_left_out_and_counted() -> None:
    tok = made.byte_level(corpus=["When Mary and John went. Mary John Paul Mary John Paul"] * 9,
                          size=330)  # fmt: skip
    pairs = prompts.ioi(tok, 12)
    left, of = pairs.pools["names"]
    single = [w for w in words.NAMES if len(tok.tokenize(f" {w}")) == 1]
    assert (left, of) == (len(single), len(words.NAMES))
    assert left < of
    assert {t.strip() for t in pairs.answer_texts} <= set(single)
    assert f"names {left} of {of}" in repr(pairs)


def test_too_few_words_are_an_error_that_says_what_to_do() -> None:
    poor = made.word_level(["When", "and", "went", "to", "the", "gave", "a", ",", "Mary"])
    with pytest.raises(NotEnoughDataError, match=r"at least 2 names.*1 of 69 are left.*from_texts"):
        prompts.ioi(poor, 5)
    for task in prompts.TASKS.values():
        with pytest.raises(NotEnoughDataError, match="from_texts"):
            task(poor, 5)
    two = made.word_level("When Mary and John went to the store , gave a drink".split())
    with pytest.raises(NotEnoughDataError, match="ask for at most 4"):
        prompts.ioi(two, 100)
    assert len(prompts.ioi(two, 4)) == 4


def test_a_word_level_tokenizer_gets_punctuation_as_a_word() -> None:
    two = made.word_level("When Mary and John went to the store , gave a drink".split())
    assert " , " in prompts.ioi(two, 1).clean_texts[0]
    assert " , " not in prompts.ioi(tokenizer("metaspace"), 1).clean_texts[0]


def test_abc_names_three_others() -> None:
    tok = tokenizer("byte-level")
    pairs = prompts.ioi(tok, 20, corruption="abc")
    assert not pairs.flips
    for row in range(20):
        roles = ("indirect_object", "subject", "subject_again")
        told = {role_words(pairs, r, tok, row, pairs.clean_ids) for r in roles}
        others = {role_words(pairs, r, tok, row, pairs.corrupted_ids) for r in roles}
        assert len(others) == 3
        assert not told & others


@pytest.mark.illtyped
def test_unknown_kinds_of_corruption_and_form_are_refused() -> None:
    tok: Any = tokenizer("byte-level")
    with pytest.raises(UnknownNameError, match="Did you mean 'flip'"):
        prompts.ioi(tok, 2, corruption="flipp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownNameError, match="Did you mean 'years'"):
        prompts.greater_than(tok, 2, form="year")  # pyright: ignore[reportArgumentType]


def test_seeds_repeat_and_differ() -> None:
    tok = tokenizer("byte-level")
    for task in prompts.TASKS.values():
        one, again, other = task(tok, 8, 5), task(tok, 8, 5), task(tok, 8, 6)
        assert one == again
        assert one.fingerprint() == again.fingerprint() != other.fingerprint()


def test_refusals_stand_inside_the_chat_template() -> None:
    for kind in ("byte-level", "metaspace"):
        tok = tokenizer(kind)
        pairs = prompts.refusal(tok, 10, 0)
        assert pairs.tokenizer["template"] == tok.chat_template
        for row in range(10):
            assert pairs.clean_ids[row].count(tok.bos_token_id) == 1
            differ = np.flatnonzero(np.array(pairs.clean_ids[row]) != pairs.corrupted_ids[row])
            at = pairs.roles["action"][row]  # last token of the verb; verbs may share an ending
            assert at - 5 < differ[0] <= differ[-1] <= at
            assert pairs.roles["instruction_end"][row] < pairs.roles["end"][row]
        space = " " if kind == "metaspace" else ""  # what each template writes before a reply
        assert pairs.answer_texts[0] == f"{space}Sorry"
    plain = made.byte_level(None, corpus=CORPUS, size=2600)
    assert prompts.refusal(plain, 1).clean_texts[0].startswith("Request: ")


THINKS = made.CHATML.replace(
    "{{ m['content'] | trim }}",
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] | trim }}",
)
OPENS = made.CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
CLOSES = OPENS.replace("<think>\n", "<think>\n\n</think>\n\n")


@pytest.mark.parametrize("template", [THINKS, CLOSES], ids=["in replies", "in the prompt"])
def test_a_refusal_s_answer_comes_after_the_thoughts(template: str) -> None:
    tok = made.byte_level(template, corpus=CORPUS, size=2600)
    pairs = prompts.refusal(tok, 10, 0)
    assert all(t.endswith("assistant\n<think>\n\n</think>\n\n") for t in pairs.clean_texts)
    assert set(pairs.answer_texts) == {"Sorry"}
    assert ("reply_opening" in pairs.tokenizer) == (template == THINKS)


def test_a_template_that_leaves_a_thought_open_is_refused() -> None:
    tok = made.byte_level(OPENS, corpus=CORPUS, size=2600)
    with pytest.raises(ConfigError, match=r"opens <think> before the reply.*template="):
        prompts.refusal(tok, 5)
    assert prompts.refusal(tok, 5, template=made.CHATML).answer_texts[0] == "Sorry"


def test_a_line_that_begins_replies_belongs_to_the_prompt() -> None:
    late = made.CHATML.replace("assistant\n{% endif", "assistant{% endif")
    pairs = prompts.refusal(made.byte_level(late, corpus=CORPUS, size=2600), 5)
    assert pairs.clean_texts[0].endswith("<|im_start|>assistant\n")
    assert pairs.answer_texts[0] == "Sorry"


# ---- pairs of a user's own -------------------------------------------------------------------
OWN = {"clean": ["Mary gave John a"], "corrupted": ["John gave Mary a"], "answer": [" book"],
       "foil": [" drink"]}  # fmt: skip


def test_own_pairs_are_taken_with_their_roles() -> None:
    tok = tokenizer("byte-level")
    pairs = prompts.from_texts(tok, **OWN, roles={"giver": [("Mary", "John")], "verb": ["gave"]})
    at = pairs.roles["verb"][0]
    assert token_texts(tok, [pairs.clean_ids[0][at]]) == [" gave"]
    assert pairs.roles["giver"][0] < at


@pytest.mark.parametrize(
    ("change", "words_"),
    [
        (
            {"corrupted": ["John gave Mary Mary a"]},
            r"unequal length: .*\(5 tokens\) / .*\(6 tokens\)",
        ),
        ({"foil": [" book"]}, "begin with the same token"),
        ({"answer": [" book", " x"]}, "one entry per pair"),
        ({"clean": []}, "one entry per pair"),
        ({"roles": {"giver": ["Paul"]}}, "'Paul' of role 'giver' is not in"),
        ({"roles": {"giver": [("Mary", "Mary")]}}, "role at different places"),
        ({"roles": {"end": ["gave"]}}, "role 'end' is the last token"),
        ({"roles": {"_verb": ["gave"]}}, "role '_verb' begins with an underscore"),
        ({"roles": {"verb": ["\ud83d"]}}, "role 'verb' of pair 0 holds half of a surrogate"),
        ({"clean": ["a \ud83d"]}, "clean of pair 0 holds half of a surrogate"),
        ({"foil": [" \ud83d"]}, "foil of pair 0 holds half of a surrogate"),
    ],
)
def test_misaligned_pairs_of_a_user_are_refused_with_their_tokens(change, words_) -> None:
    with pytest.raises(ConfigError, match=words_):
        prompts.from_texts(tokenizer("byte-level"), **{**OWN, **change})


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("change", "words_"),
    [
        ({"roles": {"verb": [3]}}, "role 'verb' of pair 0 must be a text or two.*got 3"),
        ({"roles": {"verb": [("gave",)]}}, "role 'verb' of pair 0 must be a text or two"),
        ({"roles": {"verb": 3}}, "every list needs one entry"),
        ({"roles": {3: ["gave"]}}, "name of a role must be text, got int"),
        ({"roles": ["gave"]}, "roles must map a role's name .*got list"),
        ({"clean": [None]}, "clean of pair 0 must be text, got NoneType"),
        ({"answer": [3]}, "answer of pair 0 must be text, got int"),
        ({"clean": None}, "every list needs one entry"),
        ({"corrupted": "x"}, "every list needs one entry"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(change, words_) -> None:
    with pytest.raises(ConfigError, match=words_):
        prompts.from_texts(tokenizer("byte-level"), **{**OWN, **change})


def test_misaligned_pairs_are_dropped_and_counted_when_asked() -> None:
    both = {key: value * 2 for key, value in OWN.items()}
    both["corrupted"] = [OWN["corrupted"][0], "John gave Mary Mary a"]
    pairs = prompts.from_texts(tokenizer("byte-level"), **both, drop_misaligned=True)
    assert len(pairs) == 1
    assert pairs.dropped == {"of unequal length": 1}


# ---- the value -------------------------------------------------------------------------------
def test_pairs_come_back_from_json_and_rows_are_chosen() -> None:
    pairs = prompts.agreement(tokenizer("metaspace"), 12, 0)
    assert PromptPairs.from_json(pairs.to_json()) == pairs
    for damaged in ("{", "[]", "{}", pairs.to_json().replace('"task"', '"tusk"')):
        with pytest.raises(DamagedDataError, match="no JSON of PromptPairs"):
            PromptPairs.from_json(damaged)
    some = pairs.select([3, 1])
    assert some.clean_ids == (pairs.clean_ids[3], pairs.clean_ids[1])
    assert some.roles["subject"] == (pairs.roles["subject"][3], pairs.roles["subject"][1])
    mask = np.arange(12) < 5
    assert len(pairs.select(mask)) == 5
    with pytest.raises(UnknownNameError, match="Did you mean 'subject'"):
        pairs.mask("subjct")


def test_masks_follow_the_padding() -> None:
    pairs = prompts.ioi(tokenizer("byte-level"), 30, 0)
    assert len({len(row) for row in pairs.clean_ids}) > 1
    assert pairs.clean.mask is not None
    for role in ("subject", "end"):
        picked = pairs.clean.ids.numpy()[pairs.mask(role)]
        assert picked.tolist() == [
            row[at] for row, at in zip(pairs.clean_ids, pairs.roles[role], strict=True)
        ]
    assert pairs.mask("end")[:, -1].all()


def test_pairs_show_themselves_escaped() -> None:
    tok = tokenizer("byte-level")
    nasty = {**OWN, "clean": ["<b>Mary\x07 gave"], "corrupted": ["<b>John\x07 gave"]}
    pairs = prompts.from_texts(tok, **nasty)
    assert "\n" not in repr(pairs)
    shown = pairs._repr_html_()
    assert "<b>" not in shown
    assert "\x07" not in shown
    assert "&lt;b&gt;Mary␇" in shown


def test_n_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="n must be at least 1"):
        prompts.ioi(tokenizer("byte-level"), 0)
    with pytest.raises(ConfigError, match="2 to 5"):
        prompts.recall(tokenizer("byte-level"), 3, n_pairs=6)
    with pytest.raises(ConfigError, match="neither a model nor a tokenizer"):
        prompts.ioi(3)


@pytest.mark.illtyped
@pytest.mark.parametrize("n", ["a", 2.5, None, True, [3]])
def test_n_that_is_no_whole_number_is_refused_by_every_task(n: Any) -> None:
    for task in prompts.TASKS.values():
        with pytest.raises(ConfigError, match="n must be a whole number"):
            task(tokenizer("byte-level"), n)
    with pytest.raises(ConfigError, match="n_pairs must be a whole number"):
        prompts.recall(tokenizer("byte-level"), 3, n_pairs=n)


@pytest.mark.illtyped
def test_numbers_of_numpy_are_numbers() -> None:
    pairs = prompts.ioi(tokenizer("byte-level"), np.int64(3))  # pyright: ignore[reportArgumentType]
    assert len(pairs) == 3


@pytest.mark.illtyped
@pytest.mark.parametrize(
    "rows",
    [[], [5], [-6], 0, "a", [0.5], [[0]], [True], np.zeros(5, bool), [[0], [1, 2]], None],
    ids=str,
)
def test_rows_that_are_not_there_are_refused(rows: Any) -> None:
    pairs = prompts.ioi(tokenizer("byte-level"), 5)
    with pytest.raises(ConfigError, match=r"rows must be .* from -5 to 4, or a mask of 5 booleans"):
        pairs.select(rows)
    assert pairs.select([-1]).clean_ids == (pairs.clean_ids[4],)
