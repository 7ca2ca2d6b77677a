"""The word-level tokenizer of the atlas, in the hub's file format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

SPECIALS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")


def save_tokenizer(vocab: Sequence[str], folder: Path) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``: split at spaces, BOS first.

    Text to ids to text is exact on text of the world; EOS is a word that documents end with and
    that the tokenizer does not add, so that a prompt can be continued.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    index = {word: i for i, word in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordLevel(index, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", pair="[BOS] $A $B", special_tokens=[("[BOS]", index["[BOS]"])]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 64,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
