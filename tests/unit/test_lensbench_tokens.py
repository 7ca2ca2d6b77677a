from typing import Any

import numpy as np
import pytest
import torch

from lensbench.errors import ConfigError
from lensbench.tokens import Tokens, as_tokens, token_texts


def test_ragged_rows_are_padded_on_the_left_with_a_mask() -> None:
    batch = as_tokens([[5, 6, 7], [8]], pad_id=0)
    assert batch.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True] * 3, [False, False, True]]
    assert batch.positions().tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize("value", [[4, 5], np.array([4, 5]), torch.tensor([4, 5]), [[4, 5]]])
def test_usual_forms_are_read(value) -> None:
    assert as_tokens(value).ids.tolist() == [[4, 5]]


@pytest.mark.illtyped
@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        torch.zeros(0, 3, dtype=torch.long),
        torch.ones(2, 2),
        "text",
        torch.zeros(1, 2, 3, dtype=torch.long),
    ],
)
def test_unusable_input_is_refused(value) -> None:
    with pytest.raises(ConfigError):
        as_tokens(value)


@pytest.mark.illtyped
def test_masks_are_checked() -> None:
    ids = torch.tensor([[1, 2]])
    with pytest.raises(ConfigError, match="shape"):
        as_tokens(Tokens(ids, torch.tensor([[True]])))
    with pytest.raises(ConfigError, match="False everywhere"):
        as_tokens(Tokens(ids, torch.tensor([[False, False]])))


def small_tokenizer(kind: str) -> Any:
    """A byte-level BPE as GPT-2 has, or a Metaspace BPE as Llama's, trained on one sentence."""
    import tokenizers as tk
    from transformers import PreTrainedTokenizerFast

    inner = tk.Tokenizer(tk.models.BPE(unk_token="<unk>"))
    part, decoder = {
        "byte-level": (
            tk.pre_tokenizers.ByteLevel(add_prefix_space=False),
            tk.decoders.ByteLevel(),
        ),
        "metaspace": (tk.pre_tokenizers.Metaspace(), tk.decoders.Metaspace()),
    }[kind]
    inner.pre_tokenizer, inner.decoder = part, decoder
    trainer = tk.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>"], show_progress=False
    )
    inner.train_from_iterator(["the café is near the old café"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_texts_of_single_tokens_keep_their_space_and_their_accents(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = tokenizer("the café is near")["input_ids"]
    texts = token_texts(tokenizer, [tokenizer.bos_token_id, *ids])
    start = " the" if kind == "metaspace" else "the"  # Metaspace marks the first word as well
    assert texts == ["<s>", start, " café", " is", " near"]


def test_texts_without_a_tokenizer_are_numbers() -> None:
    assert token_texts(None, [5, 17]) == ["#5", "#17"]
