"""Where latents fire: every activation of a few latents, and the token windows around some."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from scipy import sparse

from lensbench.saes.evaluation.passes import Dictionary, Latents, encode, to_csr

if TYPE_CHECKING:
    from lensbench.store import ActivationStore, SequenceBatch

BANDS = ("strongest", "75-100 %", "50-75 %", "25-50 %", "0-25 %")
"""The strongest contexts, then quarters of the remaining activations by rank."""


@dataclass(frozen=True)
class Firings:
    """Every non-zero activation: one array per latent (each of its own length), rows ascending."""

    rows: list[np.ndarray]
    values: list[np.ndarray]
    docs: list[np.ndarray]
    n_tokens: int
    n_batches: int
    batch_size: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """Some latents of the first rows of a store, in the order of the text."""

    latents: Int[np.ndarray, " latents"]
    """Which latent each column of ``acts`` is, ascending."""
    acts: "sparse.csc_array"
    """``[rows, latents]``, float32; what is not stored is 0."""
    rows: Int[np.ndarray, " rows"]
    docs: Int[np.ndarray, " rows"]
    n_batches: int
    batch_size: int

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        parts = (self.acts.data, self.acts.indices, self.acts.indptr, self.rows, self.docs)
        return sum(part.nbytes for part in parts)

    def firings(self, latents: Int[np.ndarray, " wanted"]) -> Firings:
        """Those of ``latents``, which are all among the columns."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for column in np.searchsorted(self.latents, latents):
            span = slice(self.acts.indptr[column], self.acts.indptr[column + 1])
            found.append((self.acts.indices[span], self.acts.data[span]))
        rows, docs = ([a[where] for where, _ in found] for a in (self.rows, self.docs))
        values = [values for _, values in found]
        return Firings(rows, values, docs, len(self.rows), self.n_batches, self.batch_size)


def encode_rows(
    store: "ActivationStore",
    dictionary: Dictionary,
    max_tokens: int,
    batch_size: int,
    *,
    latents: Int[np.ndarray, " latents"] | None = None,
    max_active: int | None = None,
) -> Encoded | None:
    """Encode the stored rows in the order of the text until ``max_tokens`` are seen.

    Keeps ``latents`` (default: all). None as soon as more than ``max_active`` of them are non-zero.
    """
    columns = np.arange(dictionary.codec.d_sae) if latents is None else np.sort(latents)
    pick = None if latents is None else torch.from_numpy(columns)
    parts: list[Latents] = []
    rows, docs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    n_tokens = n_batches = n_active = 0
    for batch in store.sequences(batch_size):
        if n_tokens >= max_tokens:
            break
        kept = batch.rows >= 0
        rows.append(batch.rows[kept])
        docs.append(batch.doc_ids[kept])
        n_tokens, n_batches = n_tokens + len(rows[-1]), n_batches + 1
        if not len(rows[-1]):
            continue
        x = torch.from_numpy(store.rows(dictionary.site, rows[-1]))
        acts = encode(dictionary.codec, x).cpu()
        parts.append(to_csr((acts if pick is None else acts[:, pick]).float()))
        n_active += parts[-1].nnz
        if max_active is not None and n_active > max_active:
            return None
    stacked = sparse.vstack(parts) if parts else sparse.csr_array((0, len(columns)))
    found = sparse.csc_array(stacked, dtype=np.float32)
    found.sort_indices()
    return Encoded(columns, found, np.concatenate(rows), np.concatenate(docs),
                   n_batches, batch_size)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """Contexts to cut out, per latent and place; ``at`` indexes the latent's firings, -1: none."""

    at: Int[np.ndarray, "latents contexts"]
    band: Int[np.ndarray, " contexts"]


def choose_contexts(found: Firings, per_band: int, seed: int) -> Wanted:
    """The strongest firing of each of the ``4 * per_band`` strongest documents, then samples.

    A document gives one context to a band, so that one long document does not fill it.
    """
    rng = np.random.default_rng(seed)
    sizes = [4 * per_band, *[per_band] * (len(BANDS) - 1)]
    at = np.full((len(found.rows), sum(sizes)), -1, np.int64)
    for i, (values, docs) in enumerate(zip(found.values, found.docs, strict=True)):
        order = np.argsort(-values, kind="stable")
        strongest = _first_of_each(order, docs)[: sizes[0]]
        at[i, : len(strongest)] = strongest
        rest = np.setdiff1d(order, strongest)
        rest = rest[np.argsort(-values[rest], kind="stable")]
        for band, part in enumerate(np.array_split(rest, len(BANDS) - 1), 1):
            sample = _first_of_each(rng.permutation(part), docs)[:per_band]
            sample = sample[np.argsort(-values[sample], kind="stable")]
            start = sum(sizes[:band])
            at[i, start : start + len(sample)] = sample
    return Wanted(at, np.repeat(np.arange(len(BANDS)), sizes))


def _first_of_each(order: Int[np.ndarray, " n"], docs: Int[np.ndarray, " m"]) -> np.ndarray:
    _, first = np.unique(docs[order], return_index=True)
    return order[np.sort(first)]


def cut_contexts(
    store: "ActivationStore", found: Firings, wanted: Wanted, before: int, after: int
) -> dict[str, np.ndarray]:
    """Token windows of the wanted contexts, with the latent's activation at every token.

    Gives ``tokens`` (-1 outside the document), ``acts`` (NaN where nothing is stored), and per
    context ``rows``, ``doc_ids``, ``positions`` (in the sequence), ``activation`` and ``band``.
    """
    shape = wanted.at.shape
    out: dict[str, np.ndarray] = {
        "tokens": np.full((*shape, before + 1 + after), -1, np.int64),
        "acts": np.full((*shape, before + 1 + after), np.nan, np.float32),
        "rows": np.full(shape, -1, np.int64),
        "doc_ids": np.full(shape, -1, np.int64),
        "positions": np.full(shape, -1, np.int64),
        "activation": np.full(shape, np.nan, np.float32),
        "band": wanted.band.astype(np.int64),
    }
    for i, j in np.argwhere(wanted.at >= 0):
        fire = wanted.at[i, j]
        out["rows"][i, j] = found.rows[i][fire]
        out["activation"][i, j] = found.values[i][fire]
        out["doc_ids"][i, j] = found.docs[i][fire]
    for number, batch in enumerate(store.sequences(found.batch_size)):
        if number == found.n_batches:
            break
        for i, j, row, at in _inside(out["rows"], batch):
            _cut(out, i, j, batch, row, at, found, before, after)
    return out


def _inside(
    rows: Int[np.ndarray, "latents contexts"], batch: "SequenceBatch"
) -> Iterator[tuple[int, int, int, int]]:
    """Contexts whose row lies in this batch, with its sequence and position."""
    flat = batch.rows.ravel()
    places = np.flatnonzero(flat >= 0)
    kept = flat[places]  # ascending
    if not len(kept):
        return
    for i, j in np.argwhere((rows >= kept[0]) & (rows <= kept[-1])):
        row, at = divmod(int(places[np.searchsorted(kept, rows[i, j])]), batch.rows.shape[1])
        yield int(i), int(j), row, at


def _cut(
    out: dict[str, Any],
    i: int,
    j: int,
    batch: "SequenceBatch",
    row: int,
    at: int,
    found: Firings,
    before: int,
    after: int,
) -> None:
    ids, docs, rows = batch.tokens.ids[row].numpy(), batch.doc_ids[row], batch.rows[row]
    span = np.arange(at - before, at + after + 1)
    inside = (span >= 0) & (span < len(ids))
    inside[inside] &= docs[span[inside]] == docs[at]
    place = span[inside]
    out["positions"][i, j] = at
    out["tokens"][i, j, inside] = ids[place]
    stored = rows[place] >= 0
    known = np.searchsorted(found.rows[i], rows[place])
    hit = (known < len(found.rows[i])) & stored
    hit[hit] &= found.rows[i][known[hit]] == rows[place][hit]
    values = np.where(stored, 0.0, np.nan).astype(np.float32)
    values[hit] = found.values[i][known[hit]]
    out["acts"][i, j, inside] = values
