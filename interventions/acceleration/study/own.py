"""A store of a model's own greedy text: the one from which drafts are predicted exactly.

A drafted token matters up to the first one that the full model would not have written, and until
then it is drafted in the context of the model's own text. So the states of one pass over prompt and
own continuation decide what every exit layer drafts and how much of it is kept.
"""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench import io
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.harvest import Text, capture
from lensbench.interventions.acceleration.decoding import greedy, native
from lensbench.models.base import Model
from lensbench.progress import each
from lensbench.sites import Site
from lensbench.tokens import as_tokens, meant

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

KIND = "own-greedy"
"""What the manifest of such a store says of its text."""


def capture_own(
    model: Model,
    prompts: Any,
    out: str | PathLike[str],
    max_new_tokens: int = 64,
    *,
    sites: Sequence[str] | None = None,
    dtype: str = "float32",
    batch_size: int = 16,
) -> "ActivationStore":
    """Let the model continue each prompt greedily, and capture prompt and continuation.

    Document ``i`` of the store is prompt ``i`` and its ``max_new_tokens`` new tokens (no token ends
    a text early, so that rounds of drafting can be counted to the end). The manifest keeps the
    length of every prompt under ``text``.

    Args:
        model: a decoder-only model whose layers can be run one by one.
        prompts: strings, or ids in any usual form; at least one.
        out: a folder or any fsspec URL.
        max_new_tokens: length of every continuation.
        sites: default: the stream before the first block and in and after every block.
        dtype: of the stored numbers; predictions are exact at the model's own precision only.
        batch_size: texts per forward pass.

    Raises:
        ConfigError: no prompt, an empty one, one that leaves no room in the context, or an
            architecture whose layers cannot be run one by one.
        MismatchError: ``out`` holds another store.

    Example:
        >>> own = acceleration.capture_own(early, ["Alice the baker"], "own", max_new_tokens=8)
    """
    runnable = native(model)
    new = whole_number("max_new_tokens", max_new_tokens, least=1)
    rows = [np.asarray(ids, dtype=np.int64) for ids in prompt_ids(model, prompts)]
    for number, row in enumerate(rows):
        if model.card.n_ctx and len(row) + new > model.card.n_ctx:
            raise ConfigError(
                f"prompt {number} has {len(row)} tokens, and {new} new ones do not fit into the "
                f"context of {model.card.n_ctx}; shorten it, or ask for fewer new tokens"
            )
    texts = [
        np.array([*row, *greedy(runnable, meant(row.tolist()), new).new], dtype=np.int64)
        for row in each(rows, "own text", "text")
    ]
    entry: dict[str, Any] = {
        "kind": KIND,
        "model": model.card.fingerprint,
        "prompt_lengths": [len(row) for row in rows],
        "max_new_tokens": new,
    }
    entry["fingerprint"] = io.fingerprint([entry, [t.tolist() for t in texts]])
    text = Text(entry, lambda: iter(texts), given_as_ids=True, masked=True, layout="pad")
    longest = max(len(t) for t in texts)
    return capture(
        model, text, stream_sites(model) if sites is None else sites, out=out, layout="pad",
        context=longest, bos=False, dtype=dtype, batch_size=batch_size,
    )  # fmt: skip


def stream_sites(model: Model) -> list[str]:
    """The stream before block 0 and in and after every block, as far as the model has them."""
    wanted = ("resid_pre", "resid_mid", "resid_post")
    return [str(s) for s in model.sites() if s.name in wanted and s.layer is not None]


def prompt_ids(model: Model, prompts: Any) -> list[list[int]]:
    """Ids of every prompt, without padding.

    Raises:
        ConfigError: no prompt, or one without a token.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if isinstance(prompts, Sequence) and not len(prompts):
        raise ConfigError("at least one prompt is needed, got none")
    if isinstance(prompts, Sequence) and isinstance(prompts[0], str):
        batches = [model.tokens(text) for text in prompts]
    else:
        batches = [as_tokens(prompts)]
    found = [
        ids[real].tolist()
        for batch in batches
        for ids, real in zip(batch.ids.cpu(), batch.real.cpu(), strict=True)
    ]
    if not all(found):
        raise ConfigError("a prompt without a token cannot be continued")
    return found


def is_own(store: "ActivationStore") -> bool:
    """Was the store made by :func:`capture_own`?"""
    return store.text.get("kind") == KIND


def prompt_lengths(store: "ActivationStore") -> list[int]:
    """Tokens of the prompt of each document of a store of own text."""
    return [int(n) for n in store.text["prompt_lengths"]]


def why_inexact(store: "ActivationStore", model: Model) -> str:
    """Why predictions from this store are not exact; empty where they are."""
    if not is_own(store):
        return (
            f"the store in {store.url} holds other text than the model's own greedy continuations, "
            "and what a draft meets in other text is not what it meets in decoding. Capture the "
            "continuations: capture_own(model, prompts, out=...)"
        )
    if store.text.get("model") != model.card.fingerprint:
        return f"the store in {store.url} holds the own text of another model"
    if store.dtype not in ("float32", model.card.dtype):
        return (
            f"the store in {store.url} keeps {store.dtype}, the model computes in "
            f"{model.card.dtype}, and rounding moves close predictions. Capture with "
            "dtype='float32'"
        )
    return ""


def require_stream(store: "ActivationStore", n_layers: int) -> None:
    """Refuse a store without the stream before block 0 and after every block.

    Raises:
        MissingDataError: names what is missing and how to add it.
    """
    posts = [str(Site("resid_post", n)) for n in range(n_layers)]
    store.require([str(Site("resid_pre", 0)), *posts])


def refuse_inexact(reason: str) -> None:
    """Raise where there is a reason.

    Raises:
        MismatchError: with the reason, and how to have a prediction all the same.
    """
    if reason:
        raise MismatchError(
            f"an exact prediction is not possible: {reason}. With exact=False it is made as if the "
            "text were the model's own, and called a proxy"
        )
