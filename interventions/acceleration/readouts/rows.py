"""Documents of a store as the readouts need them: rows, ids, states, a split."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError, NotEnoughDataError
from lensbench.models.base import Model
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.store import ActivationStore


@dataclass(frozen=True, eq=False)
class Document:
    """One text of a store, every token of which has a row."""

    rows: Int[np.ndarray, " pos"]
    ids: Int[np.ndarray, " pos"]


def documents(
    store: "ActivationStore", *, most: int | None = None, least_tokens: int = 2
) -> list[Document]:
    """Whole documents of at least ``least_tokens`` tokens, in their order.

    Raises:
        ConfigError: tokens of a document have no row, so the text cannot be followed.
        NotEnoughDataError: no document is long enough.
    """
    index = store.index()
    cuts = np.flatnonzero(np.diff(index.doc_ids)) + 1
    found: list[Document] = []
    for rows in np.split(np.arange(len(index.doc_ids)), cuts):
        if len(rows) < least_tokens or (most is not None and len(found) >= most):
            continue
        if not np.array_equal(index.positions[rows], np.arange(len(rows))):
            raise ConfigError(
                f"document {index.doc_ids[rows[0]]} of the store in {store.url} is not stored from "
                "its first token on without gaps; capture it with every position and layout='pad'"
            )
        found.append(Document(rows, index.token_ids[rows].astype(np.int64)))
    if not found:
        raise NotEnoughDataError(
            f"no document of the store in {store.url} has {least_tokens} tokens; capture longer "
            "texts"
        )
    return found


def split(items: list[Any], test: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the documents to fit on and to test on, both in order and neither empty.

    Raises:
        ConfigError: ``test`` is no share between 0 and 1.
        NotEnoughDataError: fewer than two documents.
    """
    if not 0 < test < 1:
        raise ConfigError(f"test is the share of documents held out, between 0 and 1; got {test!r}")
    n = len(items)
    if n < 2:
        raise NotEnoughDataError(
            f"one part is fitted on and another tested, so two are needed; got {n}"
        )
    held = min(max(round(test * n), 1), n - 1)
    order = np.random.default_rng(seed).permutation(n)
    return sorted(int(i) for i in order[held:]), sorted(int(i) for i in order[:held])


def states(
    store: "ActivationStore", exit_layer: int, rows: Int[np.ndarray, " n"]
) -> Float[Tensor, "n d_model"]:
    """The stream after ``exit_layer`` layers of these rows, float32."""
    return torch.from_numpy(store.rows(Site("resid_post", exit_layer - 1), rows))


def require_exits(store: "ActivationStore", exits: list[int]) -> None:
    """Refuse a store without the stream after these numbers of layers.

    Raises:
        MissingDataError: names what is missing and how to add it.
    """
    store.require([str(Site("resid_post", e - 1)) for e in exits])


def whole(ids: "Int[np.ndarray, ' pos'] | Tensor") -> Tokens:
    """One text whose every token is meant, also where it ends as padding would."""
    row = torch.as_tensor(ids)[None]
    return Tokens(row, torch.ones_like(row, dtype=torch.bool))


def log_probs(
    model: Model, ids: "Int[np.ndarray, ' pos'] | Tensor", plan: Plan
) -> Float[Tensor, "pos d_vocab"]:
    """Log-probabilities of one text under a plan, float64 on the CPU."""
    logits = model.run(whole(ids), plan).logits
    assert logits is not None
    return logits[0].double().log_softmax(-1).cpu()
