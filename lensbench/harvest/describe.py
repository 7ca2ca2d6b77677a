"""What a capture writes down about its model, tokenizer and layout."""

import json
from collections.abc import Sequence
from typing import Any

from lensbench import io
from lensbench.errors import ConfigError, MismatchError, UnknownNameError
from lensbench.harvest.layout import Layout, LayoutName, Positions
from lensbench.harvest.text import Text
from lensbench.models.base import Model

DTYPES = ("float16", "bfloat16", "float32")


def model_entry(model: Model) -> dict[str, Any]:
    """Identity and shape of the model; the fingerprint is of its weights."""
    card = model.card
    names = (
        "name",
        "source",
        "revision",
        "fingerprint",
        "family",
        "n_layers",
        "d_model",
        "d_vocab",
        "dtype",
    )
    return {name: getattr(card, name) for name in names}


def tokenizer_entry(tokenizer: Any) -> dict[str, Any]:
    """Name and fingerprint of the tokenizer; None for both where the model has none."""
    if tokenizer is None:
        return {"name": None, "fingerprint": None}
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        content = json.loads(fast.to_str())
        # Padding and truncation are switched by use; they do not change what we ask of it.
        content.update(padding=None, truncation=None)
    else:
        content = sorted(tokenizer.get_vocab().items())
    special = [tokenizer.bos_token_id, sorted(tokenizer.all_special_ids)]
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    return {"name": name.rpartition("/")[2], "fingerprint": io.fingerprint([content, special])}


def make_layout(
    model: Model,
    text: Text,
    name: LayoutName | None,
    context: int | None,
    bos: bool,
    exclude_special: bool | Sequence[int],
    positions: Positions,
    batch_size: int,
    max_tokens: int | None,
) -> Layout:
    """The layout, once it is sure that model and tokenizer can do it.

    Raises:
        MismatchError: ids of a world whose vocabulary is not the model's.
        ConfigError: text or special tokens without a tokenizer, or a context the model has not.
    """
    tokenizer: Any = model.tokenizer
    if tokenizer is None and not text.given_as_ids:
        raise ConfigError(
            f"model {model.card.name!r} has no tokenizer, so it cannot read text; pass token ids, "
            "or load_model(..., tokenizer=...)"
        )
    if exclude_special is True and tokenizer is None:
        raise ConfigError(
            f"model {model.card.name!r} has no tokenizer to name its special tokens; pass their "
            "ids: exclude_special=[0, 1]"
        )
    _check_vocabulary(model, text)
    room = model.card.n_ctx  # 0: relative positions or a recurrent state, so no limit
    context = min(128, room or 128) if context is None else context
    if room and context > room:
        raise ConfigError(
            f"context must be at most {room}, the longest sequence of "
            f"{model.card.name!r}; got {context}"
        )
    special: list[int] = getattr(tokenizer, "all_special_ids", [])
    exclude = special if exclude_special is True else exclude_special or ()
    encoder = model.kind != "decoder"
    if encoder and name == "pack":
        raise ConfigError(
            f"layout 'pack' joins documents, and {model.card.name!r} reads a whole row at once "
            f"({model.kind}), so they would see each other; use layout='pad'"
        )
    framed = bos and encoder and not text.given_as_ids
    return Layout(
        name="pad" if encoder else text.layout if name is None else name,
        context=context,
        bos=bos and not framed and getattr(tokenizer, "bos_token_id", None) is not None,
        framed=framed,
        exclude=tuple(sorted({int(i) for i in exclude})),
        positions=positions,
        batch_size=batch_size,
        max_tokens=max_tokens,
    )


def _check_vocabulary(model: Model, text: Text) -> None:
    """Ids that mean other words to the model would give numbers about nothing."""
    tokenizer: Any = model.tokenizer
    if not text.vocab or tokenizer is None:
        return
    n = len(text.vocab)
    known = tokenizer.convert_ids_to_tokens(list(range(min(n, len(tokenizer)))))
    if tuple(known) != text.vocab:
        raise MismatchError(
            f"the documents are ids of a vocabulary of {n} words that is not that of model "
            f"{model.card.name!r}; write them as text (`lensbench world sample --out docs.jsonl`) "
            "and capture that"
        )


def check_dtype(dtype: str) -> None:
    """Refuse a storage type that is not offered."""
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, known=DTYPES)
