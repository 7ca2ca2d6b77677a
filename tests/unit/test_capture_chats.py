"""Capture of chats: whole chats are run, rows of chosen roles are kept, the template is named."""

import json
from typing import Any

import numpy as np
import pytest

import lensbench
from lensbench.chat import chat_tokens
from lensbench.errors import ConfigError, DamagedDataError, MismatchError, UnknownNameError
from lensbench.harvest import read_chats
from tests import tokenizers_for_chat as made
from tests.helpers import tiny

CHATS = [
    [
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "I am well."},
        {"role": "user", "content": "how are you?"},
        {"role": "assistant", "content": "well, thank you!"},
    ],
    [{"role": "user", "content": "hello"}],
    [{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "hello"}],
]
SITE = "blocks.1.resid_post"


@pytest.fixture(scope="module")
def model() -> Any:
    tokenizer = made.byte_level()
    module = tiny("llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    return lensbench.load_model(module, tokenizer=tokenizer, certify=False)


def test_rows_of_the_assistant_are_kept_and_are_those_of_the_whole_chat(model, tmp_path) -> None:
    text = read_chats(model, CHATS, roles=["assistant"])
    store = lensbench.capture(model, text, SITE, out=tmp_path / "s", dtype="float32", batch_size=2)
    chats = chat_tokens(model, CHATS)
    index, rows = store.index(), store.rows(SITE, np.arange(store.n_tokens))
    at = 0
    for number, places in enumerate(chats.positions("assistant")):
        whole = model.run([list(chats.ids[number])], capture=SITE).acts[SITE][0].numpy()
        for place in places:
            assert (index.doc_ids[at], index.positions[at]) == (number, place)
            assert index.token_ids[at] == chats.ids[number][place]
            np.testing.assert_allclose(rows[at], whole[place], atol=1e-5)
            at += 1
    assert at == store.n_tokens > 0
    said = [chats.ids[0][p] for p in chats.positions("assistant")[0]]
    alone = model.run([said], capture=SITE)
    assert np.abs(alone.acts[SITE][0, 0].numpy() - rows[0]).max() > 0.01  # the control: no context


def test_all_roles_are_kept_by_default_and_the_template_is_in_the_manifest(model, tmp_path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    store = lensbench.capture(model, read_chats(model, file), SITE, out=tmp_path / "s")
    assert store.n_tokens == sum(map(len, chat_tokens(model, CHATS).ids))
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    entry = manifest["text"]
    assert entry["kind"] == "chats"
    assert entry["template"] == made.CHATML
    assert len(entry["template_sha256"]) == 16
    other = read_chats(model, file, roles=["user"])
    with pytest.raises(MismatchError):
        lensbench.capture(model, other, SITE, out=tmp_path / "s")


def test_exclusions_and_roles_both_hold(model, tmp_path) -> None:
    text = read_chats(model, CHATS, roles=["template", "user"])
    store = lensbench.capture(model, text, SITE, out=tmp_path / "s", exclude_special=True)
    chats = chat_tokens(model, CHATS)
    special = set(model.tokenizer.all_special_ids)
    wanted = [
        (r, p)
        for r, ids in enumerate(chats.ids)
        for p, token in enumerate(ids)
        if chats.role(r, p) in ("template", "user") and token not in special
    ]
    index = store.index()
    assert list(zip(index.doc_ids.tolist(), index.positions.tolist(), strict=True)) == wanted


def test_what_cannot_be_captured_is_refused(model, tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'assistant'"):
        read_chats(model, CHATS, roles=["asistant"])
    with pytest.raises(ConfigError, match=r"pass \['user'\]"):
        read_chats(model, CHATS, roles="user")
    with pytest.raises(ConfigError, match="layout='pad'"):
        lensbench.capture(model, read_chats(model, CHATS), SITE, out=tmp_path / "s", layout="pack")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n')
    with pytest.raises(DamagedDataError, match='line 1: not a JSON object with a field "messages"'):
        read_chats(model, bad)
    broken = [*CHATS[1:], [{"role": "user", "content": "hello \ud800"}]]
    with pytest.raises(ConfigError, match=r"chat 2, message 0 holds half of a surrogate pair"):
        read_chats(model, broken)
