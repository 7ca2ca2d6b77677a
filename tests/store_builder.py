"""Stores made from arrays, without a model, and tiny tokenizers: for tests of store and capture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

SITE = "blocks.0.resid_post"


def manifest(dtype: str = "float32", **changes: Any) -> Any:
    from lensbench.store.manifest import Manifest

    values: dict[str, Any] = {
        "model": {"name": "toy", "fingerprint": "m0"},
        "tokenizer": {"name": "none", "fingerprint": None},
        "text": {"kind": "ids", "fingerprint": "t0"},
        "settings": {"dtype": dtype, "batch_size": 2, "layout": "pad"},
    }
    return Manifest(**(values | changes))


def shard_tokens(rows: int, first_doc: int) -> Any:
    """One document per two rows; every third position of a sequence has no row."""
    from lensbench.store.writer import ShardTokens

    kept = np.tile(np.array([[True, False, True]]), (-(-rows // 2), 1))
    if rows % 2:
        kept[-1, 2] = False
    docs = np.repeat(np.arange(first_doc, first_doc + len(kept))[:, None], 3, axis=1)
    ids = np.arange(docs.size, dtype=np.int32).reshape(docs.shape) + 10 * first_doc
    return ShardTokens(ids, np.ones_like(kept), kept, docs, len(kept))


def build(
    folder: str | Path,
    values: Mapping[str, np.ndarray],
    sizes: Sequence[int],
    *,
    dtype: str = "float32",
    skip: Sequence[int] = (),
    done: bool = True,
) -> Any:
    """Write ``values[site]`` ``[n, d]`` as shards of the given sizes; return the opened store."""
    from lensbench.store import open_store
    from lensbench.store.folder import open_folder
    from lensbench.store.manifest import SiteEntry
    from lensbench.store.writer import StoreWriter, begin, finish

    place = open_folder(folder)
    entries = {s: SiteEntry((v.shape[1],), "d_model") for s, v in values.items()}
    writer = StoreWriter(place, begin(place, manifest(dtype), entries))
    start = doc = 0
    for batch, size in enumerate(sizes):
        tokens = shard_tokens(size, doc)
        rows = {
            s: torch.from_numpy(v[start : start + size]).to(getattr(torch, dtype))
            for s, v in values.items()
        }
        if batch not in skip:
            writer.submit(batch, tokens, rows)
        start, doc = start + size, doc + tokens.documents
    writer.close()
    if done:
        finish(place, len(sizes), {})
    return open_store(folder)


def numbered(n: int, width: int = 3) -> np.ndarray:
    """Rows that say their number: row i is i, i + 0.25, i + 0.5 ..."""
    return (np.arange(n)[:, None] + 0.25 * np.arange(width)).astype(np.float32)


def word_tokenizer(words: Sequence[str], *, bos: bool = True) -> Any:
    """A transformers tokenizer of whole words: ids 0 [PAD], 1 [BOS], 2 [EOS], 3 [UNK], 4 ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
    vocab = {word: i for i, word in enumerate([*special, *words])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        **({"bos_token": "[BOS]"} if bos else {}),
    )
