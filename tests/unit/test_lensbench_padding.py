"""Ids that are padded but have no mask, for tokenizers with a pad token, a lent one, and none."""

import pytest
import torch

from lensbench.errors import ConfigError
from lensbench.padding import PaddingTokens
from tests.helpers import tiny
from tests.store_builder import word_tokenizer

WORDS = [f"w{i}" for i in range(20)]


def tokenizer(pad: str | None):
    made = word_tokenizer(WORDS)
    made.pad_token = {"own": made.pad_token, "eos": made.eos_token, None: None}[pad]
    return made


@pytest.mark.parametrize("pad", ["own", "eos", None])
@pytest.mark.parametrize("left", [True, False])
def test_padding_is_seen_at_either_edge(pad, left) -> None:
    made = tokenizer(pad)
    fill = made.pad_token_id if pad else made.bos_token_id
    row = [7, 8, fill, fill]
    ids = torch.tensor([[7, 8, 9, 10], row[::-1] if left else row])
    with pytest.raises(ConfigError, match=rf"padding token {fill}.*Tokens\(ids, mask\)"):
        PaddingTokens.of(made).refuse_bare(ids)


def test_one_lent_token_and_one_word_twice_are_text() -> None:
    made = tokenizer("eos")
    words, eos = [7, 7, 8, 8], made.eos_token_id
    PaddingTokens.of(made).refuse_bare(torch.tensor([words, [eos, 7, 8, eos]]))
    PaddingTokens.of(None).refuse_bare(torch.tensor([[0, 0, 7]]))
    PaddingTokens.of(made).refuse_bare(torch.zeros(1, 0, dtype=torch.long))


@pytest.mark.parametrize(
    ("also", "is_text"), [(None, True), ("pad_token", False), ("eos_token", False)]
)
def test_unknown_words_side_by_side_are_text_unless_their_token_has_another_job(
    also, is_text
) -> None:
    """Whoever types two names that a small vocabulary lacks gets the same id twice at the end."""
    made = word_tokenizer(WORDS)
    if also:
        setattr(made, also, made.unk_token)
    rows = torch.tensor([made("w1 Ekaterina Popov", add_special_tokens=False)["input_ids"]])
    assert rows[0, -2:].tolist() == [made.unk_token_id] * 2
    if is_text:
        PaddingTokens.of(made).refuse_bare(rows)
        return
    with pytest.raises(ConfigError, match="padding token"):
        PaddingTokens.of(made).refuse_bare(rows)


def test_a_model_whose_tokenizer_has_no_pad_token_refuses_them_unless_a_mask_says_so() -> None:
    from lensbench.models import load_model

    model = load_model(tiny("llama"), tokenizer=tokenizer(None))
    bos = model.tokenizer.bos_token_id
    padded = [[bos, bos, 7], [bos, 8, 9]]
    for given in (padded, torch.tensor(padded)):
        with pytest.raises(ConfigError, match="twice in a row"):
            model.run(given)
        with pytest.raises(ConfigError, match="twice in a row"):
            model.generate(given, max_new_tokens=1)
    from lensbench.tokens import Tokens

    mask = torch.tensor([[False, True, True], [True, True, True]])
    assert model.run(Tokens(torch.tensor(padded), mask)).logits is not None
