"""Reading the lens table from a store: final norm and head over stored states, no block.

1. Find the rows that are followed by a token of their text; in a store of own text, say which of
   them predict new tokens.
2. A tile of rows at a time: logits of the last layer, then those of every layer, kept as scalars.
3. Where the text is the model's own, its tokens must be the last layer's choice (ties apart).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.acceleration.study.lens_table import LensTable
from lensbench.interventions.acceleration.study.own import (
    is_own,
    prompt_lengths,
    require_stream,
    why_inexact,
)
from lensbench.models.base import Model
from lensbench.results import Controls
from lensbench.sites import Site
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

TILE = 1 << 22
"""Logits held at a time per tensor: 16 MiB of float32."""
_TIE = 1e-3
_FLOATS = ("top1", "top2", "log_target", "log_final", "kl", "entropy", "cosine")


def lens_table(
    store: "ActivationStore", model: Model, *, max_tokens: int | None = None
) -> LensTable:
    """What every layer would say at every token of ``store``; the model runs no block.

    Args:
        store: with ``blocks.0.resid_pre`` and every ``resid_post``; made by ``capture_own`` where
            exact predictions are wanted.
        model: the one whose states these are; only its final norm and head are used.
        max_tokens: read whole documents until this many rows are found; default: all.

    Raises:
        MissingDataError: the store lacks the stream of some layer; says how to add it.
        MismatchError: states of another model, or a store of own text that is not what the stored
            states predict.
        ConfigError: no stored token is followed by another of its text.

    Example:
        >>> table = acceleration.lens_table(own, early)
        >>> figure = table.plot("agreement")
    """
    began = time.monotonic()
    store.check_model(model.card)
    model.require_next_token("an exit layer")
    require_stream(store, model.n_layers)
    rows, target, doc, step, prompts = _columns(store, max_tokens)  # 1
    stream = _stored(store, model.n_layers)
    best, values = _read(stream, model, rows, target)  # 2
    inexact = why_inexact(store, model)
    table = LensTable(
        best=best, **dict(zip(_FLOATS, values, strict=True)), target=target, doc=doc, step=step,
        prompts=prompts, d_vocab=model.card.d_vocab, inexact=inexact,
        store=str(store.text.get("tokens_fingerprint", store.text.get("fingerprint", ""))),
        config={"store": store.url, "text": store.text.get("kind"), "dtype": store.dtype},
        controls=Controls(note="a store of other text: its proxies beside the live run"),
        provenance=provenance.record(
            model=vars(model.card), seconds=time.monotonic() - began, store=store
        ),
    )  # fmt: skip
    if not inexact:
        _check_own(table, store.url)  # 3
    return table


def _columns(
    store: "ActivationStore", max_tokens: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[tuple[int, ...], ...]]:
    """Rows, tokens that follow, documents, steps and prompts."""
    index = store.index()
    follows = (index.doc_ids[1:] == index.doc_ids[:-1]) & (
        index.positions[1:] == index.positions[:-1] + 1
    )
    rows = np.flatnonzero(follows)
    if max_tokens is not None and len(rows):
        most = whole_number("max_tokens", max_tokens, least=1)
        last = index.doc_ids[rows[min(most, len(rows)) - 1]]
        rows = rows[index.doc_ids[rows] <= last]
    if not len(rows):
        raise ConfigError("no stored token is followed by another of its document")
    doc = index.doc_ids[rows].astype(np.int32)
    target = index.token_ids[rows + 1].astype(np.int32)
    place = index.positions[rows].astype(np.int64)
    if not is_own(store):
        firsts = np.flatnonzero(np.diff(doc, prepend=-1))
        step = np.arange(len(rows)) - np.repeat(firsts, np.diff(firsts, append=len(rows)))
        prompts: list[tuple[int, ...]] = [()] * (int(doc.max()) + 1)
        for first in firsts:
            prompts[doc[first]] = (int(index.token_ids[rows[first]]),)
        return rows, target, doc, step.astype(np.int32), tuple(prompts)
    lengths = np.array(prompt_lengths(store))
    step = np.maximum(place - (lengths[doc] - 1), -1).astype(np.int32)
    starts = np.searchsorted(index.doc_ids, np.arange(len(lengths)))
    spans = zip(starts, lengths, strict=True)
    given = tuple(tuple(int(i) for i in index.token_ids[a : a + n]) for a, n in spans)
    return rows, target, doc, step, given


def table_of_text(model: Model, prompt: Sequence[int], new: Sequence[int]) -> LensTable:
    """The table of one text, whatever wrote it; the model runs once over it.

    A free run that exits early is held to this: its own text through the full model.

    Raises:
        ConfigError: a model that does not predict the next token.
    """
    model.require_next_token("an exit layer")
    ids = [*prompt, *new]
    sites = [Site("resid_pre", 0), *(Site("resid_post", n) for n in range(model.n_layers))]
    text = Tokens(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
    acts = model.run(text, capture=sites, logits="none").acts
    stream = lambda rows: (acts[s][0, rows] for s in sites)  # noqa: E731 - one use
    rows, target = np.arange(len(ids) - 1), np.array(ids[1:], dtype=np.int32)
    best, values = _read(stream, model, rows, target)
    step = np.maximum(rows - (len(prompt) - 1), -1).astype(np.int32)
    return LensTable(
        best=best, **dict(zip(_FLOATS, values, strict=True)), target=target,
        doc=np.zeros_like(target), step=step, prompts=(tuple(int(i) for i in prompt),),
        d_vocab=model.card.d_vocab, inexact="another text than the full model's own",
    )  # fmt: skip


def _read(
    stream: Callable[[np.ndarray], Iterator[Tensor]],
    model: Model,
    rows: np.ndarray,
    target: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    n_layers = model.n_layers
    best = np.empty((n_layers, len(rows)), dtype=np.int32)
    values = np.empty((len(_FLOATS), n_layers, len(rows)), dtype=np.float32)
    for part in _tiles(len(rows), model.card.d_vocab):
        wanted = torch.from_numpy(target[part].astype(np.int64))
        states = stream(rows[part])
        before = next(states)
        layers = list(states)
        final = model.unembed(layers[-1]).float().log_softmax(-1).cpu()
        chosen = final.argmax(-1)
        for e, h in enumerate(layers):
            best[e, part], values[:, e, part] = _scalars(
                model.unembed(h).float().cpu(), final, chosen, wanted, before, h
            )
            before = h
    return best, values


def _scalars(
    logits: Tensor, final: Tensor, chosen: Tensor, wanted: Tensor, before: Tensor, h: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    logp, probs = logits.log_softmax(-1), logits.softmax(-1)
    top = probs.topk(2, dim=-1).values
    pick = lambda ids: logp.gather(1, ids[:, None]).squeeze(1)  # noqa: E731 - two uses
    kl = (final.exp() * (final - logp)).nan_to_num(0.0).sum(-1).clamp_min(0)
    entropy = -torch.special.xlogy(probs, probs).sum(-1)
    cosine = torch.cosine_similarity(before.double(), h.double(), dim=-1).float().cpu()
    found = [top[:, 0], top[:, 1], pick(wanted), pick(chosen), kl, entropy, cosine]
    return logits.argmax(-1).numpy().astype(np.int32), torch.stack(found).numpy()


def _stored(store: "ActivationStore", n_layers: int) -> Callable[[np.ndarray], Iterator[Tensor]]:
    """The stream before block 0 and after every block, by row."""
    sites = [Site("resid_pre", 0), *(Site("resid_post", n) for n in range(n_layers))]
    return lambda rows: (torch.from_numpy(store.rows(site, rows)) for site in sites)


def _tiles(n: int, d_vocab: int) -> Iterator[slice]:
    size = max(1, min(2048, TILE // d_vocab))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _check_own(table: LensTable, url: str) -> None:
    """Refuse a text that calls itself the model's own and is not.

    Raises:
        MismatchError: a new token that is not what the stored states predict, by more than a tie.
    """
    off = table.new & (table.best[-1] != table.target)
    clear = table.log_final[-1] - table.log_target[-1] > _TIE
    if bool((off & clear).any()):
        raise MismatchError(
            f"{int((off & clear).sum())} of {int(table.new.sum())} new tokens in {url} are not "
            "what its states predict, so it is not this model's greedy text; capture it again "
            "with capture_own"
        )
