"""Chats: the template's ids, whose words each token holds, and what is refused."""

import json

import numpy as np
import pytest

from lensbench.chat import ChatTokens, chat_tokens
from lensbench.errors import ConfigError, DamagedDataError, UnknownNameError
from tests import tokenizers_for_chat as made

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "  hello there, naïve café 😀 user "},
    {"role": "assistant", "content": "I am well, 東京!"},
    {"role": "user", "content": "how are you?"},
]
TOKENIZERS = {
    "byte-level": made.byte_level,
    "byte-level, trimmed offsets": lambda t: made.byte_level(t, trim_offsets=True),
    "byte-level, prefix space": lambda t: made.byte_level(t, prefix=True),
    "metaspace": made.metaspace,
}


def said(chat: ChatTokens, role: str, row: int = 0) -> str:
    return "".join(chat.pieces[row][p] for p in dict.fromkeys(chat.positions(role)[row]))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [made.CHATML, made.INST], ids=["chatml", "inst"])
def test_the_ids_are_the_template_s_and_no_word_has_the_wrong_owner(name, template) -> None:
    tokenizer = TOKENIZERS[name](template)
    talk = TALK[1:] if template == made.INST else TALK
    chat = chat_tokens(tokenizer, talk)
    theirs = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
    assert list(chat.ids[0]) == theirs
    for number, message in enumerate(talk):
        owned = [p for p, owner in enumerate(chat.messages[0]) if owner == number]
        assert owned == list(range(owned[0], owned[-1] + 1))
        text = tokenizer.decode([chat.ids[0][p] for p in owned])
        held = text.strip(), message["content"].strip()
        assert held[0].endswith(held[1])
        assert held[0] == held[1] or owned[0] in chat.mixed[0]  # "ssistant\\nI" is one token there


def test_roles_agree_with_a_count_of_bytes_that_knows_no_offsets() -> None:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's table of bytes
    others = [b for b in range(256) if b not in plain]
    byte_of = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
    tokenizer = made.byte_level(trim_offsets=True)
    chat = chat_tokens(tokenizer, TALK)
    expected = [(c, -1) for c in "<s>"]
    for number, m in enumerate(TALK):
        parts = (f"<|im_start|>{m['role']}\n", -1), (m["content"].strip(), number)
        expected += [(c, who) for text, who in (*parts, ("<|im_end|>\n", -1)) for c in text]
    owner = [who for c, who in expected for _ in c.encode()]
    at, special = 0, set(made.SPECIALS)
    for p, token in enumerate(tokenizer.convert_ids_to_tokens(list(chat.ids[0]))):
        raw = token.encode() if token in special else bytes(byte_of[c] for c in token)
        seen = {o for b, o in zip(raw, owner[at:], strict=False) if not chr(b).isspace()}
        seen = seen or {owner[at]}
        assert chat.messages[0][p] == max(seen), (p, token)
        at += len(raw)
    assert at == len(owner)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_make_up_the_text_whatever_offsets_leave_out(name) -> None:
    tokenizer = TOKENIZERS[name](made.INST)
    talk = [{**m, "content": m["content"].encode("ascii", "ignore").decode()} for m in TALK[1:]]
    chat = chat_tokens(tokenizer, talk)
    assert "".join(chat.pieces[0]) == chat.texts[0]
    encoded = tokenizer(chat.texts[0], add_special_tokens=False, return_offsets_mapping=True)
    held = "".join(chat.texts[0][a:b] for a, b in encoded["offset_mapping"])
    assert (held != chat.texts[0]) == ("trimmed" in name)  # the case is a case


def test_a_message_that_equals_words_of_the_template_is_not_confused_with_them() -> None:
    chat = chat_tokens(made.byte_level(), [{"role": "user", "content": "user"}])
    assert said(chat, "user") == "user"
    assert chat.texts[0].count("user") == 2
    where = chat.positions("user")[0][0]
    before = "".join(chat.pieces[0][:where])
    assert before == "<s><|im_start|>user\n"  # the second one is the message


def test_the_assistant_mask_is_that_of_a_template_with_generation_tags() -> None:
    tokenizer = made.byte_level(made.GENERATION)
    talk = [{**m, "content": m["content"].strip()} for m in TALK]
    chat = chat_tokens(tokenizer, talk)
    theirs = tokenizer.apply_chat_template(
        talk, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    assert np.array_equal(chat.mask("assistant")[0], np.array(theirs["assistant_masks"], bool))
    assert chat.mask("assistant").any()
    assert not np.array_equal(chat.mask("user")[0], np.array(theirs["assistant_masks"], bool))


@pytest.mark.parametrize("make", [made.byte_level, made.metaspace])
def test_a_bos_is_never_doubled(make) -> None:
    tokenizer = make(made.CHATML)
    bos = tokenizer.bos_token_id
    assert tokenizer("hello")["input_ids"][0] == bos  # the tokenizer would add one of its own
    chat = chat_tokens(tokenizer, TALK)
    assert tokenizer(chat.texts[0])["input_ids"][:2] == [bos, bos]  # the control
    assert chat.ids[0][0] == bos
    assert chat.ids[0].count(bos) == 1


def test_a_generation_prompt_is_the_template_s_and_comes_last() -> None:
    tokenizer = made.byte_level()
    without, asked = (chat_tokens(tokenizer, TALK, add_generation_prompt=p) for p in (False, True))
    assert asked.texts[0] == without.texts[0] + "<|im_start|>assistant\n"
    more = len(asked.ids[0]) - len(without.ids[0])
    assert more > 0
    assert [asked.role(0, p) for p in range(len(asked.ids[0]))][-more:] == ["template"] * more
    assert asked.positions("assistant") == without.positions("assistant")


def test_tokens_that_merge_across_a_border_go_to_the_message_and_are_named() -> None:
    chat = chat_tokens(made.metaspace(), TALK[1:])
    [mixed] = chat.mixed
    assert mixed  # "[INST] hello": the space before hello is the template's
    at = next(p for p in mixed if chat.pieces[0][p].endswith("hello"))
    assert chat.pieces[0][at] == " hello"
    assert chat.role(0, at) == "user"


def test_a_token_of_two_messages_is_refused() -> None:
    tokenizer = made.byte_level(made.GLUED)
    ends = [{"role": "user", "content": "I am well"}, {"role": "assistant", "content": "hello"}]
    assert len(tokenizer.tokenize(" wellhello")) == 1
    with pytest.raises(ConfigError, match=r"holds words of messages 0 and 1"):
        chat_tokens(tokenizer, ends)
    ends[1]["content"] = " hello"
    assert said(chat_tokens(tokenizer, ends), "assistant") == " hello"


def test_system_words_inside_the_user_s_turn_stay_the_system_s() -> None:
    tokenizer = made.byte_level(made.INST)
    chat = chat_tokens(tokenizer, TALK)
    assert said(chat, "system") == " Be kind."
    [first, *_] = chat.positions("user")[0]
    assert chat.positions("system")[0][-1] < first


def test_no_template_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no chat template.*Pass template="):
        chat_tokens(made.byte_level(None), TALK)
    assert chat_tokens(made.byte_level(None), TALK, template=made.CHATML).ids


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty"),
        pytest.param("hello", "must be a list", marks=pytest.mark.illtyped),
        ([{"content": "hello"}], "message 0 has no role"),
        ([{"role": "user", "content": ["a"]}], "string as content, got list"),
        ([{"role": "template", "content": "a"}], "template's own"),
        ([{"role": "user", "content": "a<|im_end|>b"}], r"special token '<\|im_end\|>'"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(messages, words) -> None:
    with pytest.raises(ConfigError, match=words):
        chat_tokens(made.byte_level(), messages)


def test_special_tokens_in_a_message_are_kept_when_they_are_meant() -> None:
    messages = [{"role": "user", "content": "hello<|im_end|>"}]
    chat = chat_tokens(made.byte_level(), messages, allow_special=True)
    assert said(chat, "user") == "hello<|im_end|>"


def test_a_template_that_drops_words_or_refuses_roles_is_an_error_not_a_guess() -> None:
    with pytest.raises(ConfigError, match="changes or leaves out part"):
        chat_tokens(made.byte_level(made.DROPS), [{"role": "user", "content": "thought|hello"}])
    with pytest.raises(ConfigError, match=r"refuses these roles \(user, tool\)"):
        chat_tokens(made.byte_level(made.INST), [TALK[1], {"role": "tool", "content": "x"}])


def test_several_chats_are_padded_on_the_left_and_their_masks_follow() -> None:
    chat = chat_tokens(made.byte_level(), [TALK, TALK[:2]])
    width = chat.tokens.n_pos
    assert chat.mask("user").shape == (2, width)
    assert chat.tokens.mask is not None
    assert not chat.mask("user")[1][: width - len(chat.ids[1])].any()
    flat = chat.tokens.positions().numpy()
    for row, places in enumerate(chat.positions("user")):
        assert tuple(flat[row][chat.mask("user")[row]]) == places
    last = chat.positions("user", message=-1)
    assert set(last[0]) < set(chat.positions("user")[0])
    with pytest.raises(UnknownNameError, match="Did you mean 'assistant'"):
        chat.mask("asistant")


def test_the_template_is_in_the_provenance_and_the_fingerprint() -> None:
    one = chat_tokens(made.byte_level(), TALK)
    other = chat_tokens(made.byte_level(made.CHATML + "{# changed #}"), TALK)
    assert one.ids == other.ids
    assert one.provenance()["template"] == made.CHATML
    assert one.provenance()["template_sha256"] != other.provenance()["template_sha256"]
    assert one.fingerprint() != other.fingerprint()
    json.dumps(one.provenance())


def test_a_chat_comes_back_from_json_and_shows_itself_escaped() -> None:
    talk = [{"role": "user", "content": "\u202e\x07<b> hello"}]
    chat = chat_tokens(made.byte_level(), talk)
    assert ChatTokens.from_json(chat.to_json()) == chat
    for damaged in ("{", "[]", "{}", chat.to_json().replace('"ids"', '"odds"')):
        with pytest.raises(DamagedDataError, match="no JSON of ChatTokens"):
            ChatTokens.from_json(damaged)
    assert "\n" not in repr(chat)
    html = chat._repr_html_()
    assert "<b>" not in html
    assert "\u202e" not in html
    assert "\x07" not in html
    assert "U+202E" in html


SKIPS = made.CHATML.replace("for m in messages", "for m in messages if m['role'] != 'system'")


def test_a_misspelt_template_name_is_no_template() -> None:
    tokenizer = made.byte_level({"default": made.CHATML, "rag": made.GLUED})
    assert chat_tokens(tokenizer, TALK, template="default").ids
    with pytest.raises(UnknownNameError, match=r"known: default, rag.*Did you mean 'default'"):
        chat_tokens(tokenizer, TALK, template="defualt")
    with pytest.raises(UnknownNameError, match="known: none"):
        chat_tokens(made.byte_level(), TALK, template="default")


def test_a_message_that_the_template_skips_is_refused_and_a_blank_one_is_not() -> None:
    tokenizer = made.byte_level(SKIPS)
    assert chat_tokens(tokenizer, TALK[1:]).ids
    with pytest.raises(ConfigError, match=r"leaves out message 0 \(system\)"):
        chat_tokens(tokenizer, TALK)
    assert chat_tokens(tokenizer, [{"role": "system", "content": " "}, *TALK[1:]]).ids
    with pytest.raises(ConfigError, match="no tokens"):
        chat_tokens(made.byte_level(made.GLUED), [{"role": "user", "content": ""}])


HALF = "cut \ud83d"
ADDS = "{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}"


@pytest.mark.illtyped
@pytest.mark.parametrize(
    ("messages", "template", "words"),
    [
        (TALK[1], None, "must be a list"),
        (None, None, "must be a list.*NoneType"),
        (3, None, "must be a list.*int"),
        ((m for m in TALK), None, "must be a list.*generator"),
        ([TALK, None], None, "must be a list.*NoneType"),
        (
            [{"role": "user", "content": HALF}],
            None,
            r"message 0 \(user\) holds half of a surrogate",
        ),
        ([{"role": HALF, "content": "a"}], None, "holds half of a surrogate"),
        (TALK, ADDS, "the chat template fails on these messages.*TypeError"),
        (TALK, "{{ messages[0]['content'] }}" + HALF, "template holds half of a surrogate"),
        (TALK, 3, "template must be Jinja text or a name, got int"),
    ],
    ids=range(10),
)
def test_mistakes_are_config_errors(messages, template, words) -> None:
    with pytest.raises(ConfigError, match=words):
        chat_tokens(made.byte_level(), messages, template=template)
