"""Which rows of a store an evaluation looks at, and how labels and sequences are joined to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int

from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.evaluation.ce import Sequences
from lensbench.saes.evaluation.labels import LabelledRows, check_same_tokens
from lensbench.store.places import places_in_documents
from lensbench.tokens import Tokens

if TYPE_CHECKING:
    from lensbench.store import ActivationStore, SequenceBatch
    from lensbench.worlds.corpora import LabelledCorpus

Documents = tuple[int, int] | None
"""The first document, and the one after the last; None: all."""


@dataclass(frozen=True)
class EvaluationRows:
    """Rows of a store in ascending order, whole documents only."""

    rows: Int[np.ndarray, " rows"]
    docs: Int[np.ndarray, " rows"]
    """Document number 0 .. n_docs - 1."""
    doc_ids: Int[np.ndarray, " rows"]
    positions: Int[np.ndarray, " rows"]
    """Place in the document, not in the (possibly packed) sequence."""
    tokens: Int[np.ndarray, " rows"]

    @property
    def n_docs(self) -> int:
        """Number of documents."""
        return int(self.docs.max()) + 1

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)


def choose_rows(
    store: "ActivationStore", max_tokens: int, seed: int, documents: Documents = None
) -> EvaluationRows:
    """Whole documents in random order until ``max_tokens`` rows are reached (at least one).

    Only ``documents`` (first, one after the last), where they are given.

    Raises:
        ConfigError: the store holds no rows, or none of these documents.
    """
    index = store.index()
    doc_ids = np.asarray(index.doc_ids)
    if not len(doc_ids):
        raise ConfigError("the store holds no rows to evaluate on")
    unique, number, counts = np.unique(doc_ids, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    if documents is not None:
        order = order[(unique[order] >= documents[0]) & (unique[order] < documents[1])]
        if not len(order):
            raise ConfigError(
                f"the store holds none of the documents {documents[0]} to {documents[1] - 1}; it "
                f"holds {len(unique):,}, numbered {unique[0]} to {unique[-1]}"
            )
    fits = np.cumsum(counts[order]) <= max_tokens
    fits[0] = True
    wanted = np.zeros(len(unique), bool)
    wanted[order[fits]] = True
    rows = np.flatnonzero(wanted[number])
    _, docs = np.unique(doc_ids[rows], return_inverse=True)
    return EvaluationRows(
        rows,
        docs,
        doc_ids[rows],
        places_in_documents(store)[rows],
        np.asarray(index.token_ids)[rows],
    )


def corpus_of(store: "ActivationStore") -> "LabelledCorpus | None":
    """The labelled corpus the store was captured from, or None where it names none."""
    from lensbench.worlds.corpora import WORLDS, corpus_from_spec

    spec = store.text.get("spec")
    if not isinstance(spec, dict) or spec.get("world") not in WORLDS:
        return None
    return corpus_from_spec(spec)


@dataclass(frozen=True)
class _Columns:
    """Labels joined to rows, before they are split in halves."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    values: Bool[np.ndarray, "rows labels"]


def _join(rows: EvaluationRows, corpus: "LabelledCorpus", kinds: Sequence[str]) -> _Columns:
    names = [n for n in corpus.labels if corpus.label_kinds[n] in kinds]
    if not names:
        known = sorted(set(corpus.label_kinds.values()))
        raise ConfigError(f"the corpus has no labels of kind {tuple(kinds)}; it has {known}")
    if rows.doc_ids.max() >= corpus.n_docs or np.any(
        rows.positions >= corpus.lengths[rows.doc_ids]
    ):
        raise MismatchError(
            f"the store holds documents that the corpus {dict(corpus.spec)} does not have, or "
            "longer ones; use the corpus the store was captured from"
        )
    at = corpus.rows(rows.doc_ids, rows.positions)
    check_same_tokens(rows.tokens, corpus.tokens[at])
    values = np.stack([np.asarray(corpus.labels[n], bool)[at] for n in names], 1)
    return _Columns(tuple(names), tuple(corpus.label_kinds[n] for n in names), values)


def labelled_rows(
    rows: EvaluationRows, corpus: "LabelledCorpus", kinds: Sequence[str]
) -> LabelledRows:
    """Labels of the rows, joined by document and position, and the halves.

    Raises:
        MismatchError: the store's token ids are not the corpus's.
        ConfigError: no labels of these kinds, or no document for one of the halves.
    """
    labels, how = labels_or_why_not(rows, corpus, kinds)
    if labels is None:
        raise ConfigError(how)
    return labels


def labels_or_why_not(
    rows: EvaluationRows, corpus: "LabelledCorpus", kinds: Sequence[str]
) -> tuple[LabelledRows | None, str]:
    """The same and what separates the halves; None and the reason where one has no document.

    Raises:
        MismatchError: the store's token ids are not the corpus's.
        ConfigError: no labels of these kinds.
    """
    joined = _join(rows, corpus, kinds)
    held, how = held_documents(corpus, np.unique(rows.doc_ids))
    if held.all() or not held.any():
        half = "choose a latent on" if held.all() else "score it on"
        return None, (
            f"no labels: {_count(len(held))} too few to split, none is left to {half} ({how}); "
            "evaluate on more documents, or score on a second store (heldout=)"
        )
    halves = held[rows.docs]
    labelled = (joined.names, joined.kinds, joined.values, rows.docs, rows.tokens, halves, how)
    return LabelledRows(*labelled), how


def _count(n: int) -> str:
    return "one document is" if n == 1 else f"{n} documents are"


def labelled_pair(
    select: EvaluationRows,
    select_corpus: "LabelledCorpus",
    score: EvaluationRows,
    score_corpus: "LabelledCorpus",
    kinds: Sequence[str],
) -> LabelledRows:
    """Choose on all rows of one store and score on all rows of another, one after the other.

    Raises:
        MismatchError: token ids of another text, or corpora of different labels.
    """
    a, b = _join(select, select_corpus, kinds), _join(score, score_corpus, kinds)
    if a.names != b.names:
        raise MismatchError(f"the two corpora carry different labels: {a.names} and {b.names}")
    how = [c.spec.get("split", "?") for c in (select_corpus, score_corpus)]
    return LabelledRows(
        a.names,
        a.kinds,
        np.concatenate([a.values, b.values]),
        np.concatenate([select.docs, score.docs + select.n_docs]),
        np.concatenate([select.tokens, score.tokens]),
        np.repeat([False, True], [len(select), len(score)]),
        f"chosen on a store of split {how[0]!r}, scored on one of split {how[1]!r}",
    )


def held_documents(
    corpus: "LabelledCorpus", doc_ids: Int[np.ndarray, " docs"]
) -> tuple[Bool[np.ndarray, " docs"], str]:
    """Which documents only score, and in words why; every world deals its own."""
    return corpus.held(doc_ids)


def scored_sequences(
    store: "ActivationStore", n: int, batch_size: int, documents: Documents = None
) -> Iterator[Sequences]:
    """Exactly the first ``n`` sequences of the store (or all), in batches; stored ones are kept.

    With ``documents`` the first ``n`` that hold nothing else.

    Raises:
        ConfigError: no sequence holds these documents alone.
    """
    left = n
    for batch in store.sequences(batch_size):
        take = _within(batch, documents)[:left]
        if not len(take):
            continue
        ids, mask = batch.tokens.ids[take], batch.tokens.mask
        tokens = Tokens(ids, None if mask is None else mask[take])
        kept = torch.as_tensor(batch.rows[take]) >= 0
        yield Sequences(tokens, np.asarray(batch.doc_ids)[take], kept)
        left -= len(ids)
        if left <= 0:
            return
    if left == n and documents is not None:
        raise ConfigError(
            f"no sequence of the store holds documents {documents[0]} to {documents[1] - 1} alone, "
            "so there is no CE of them; ce_sequences=0 leaves it out"
        )


def n_sequences(store: "ActivationStore", documents: Documents = None) -> int:
    """Sequences of the store (of these documents alone), whole rows of its capture."""
    if documents is None:
        return sum(int(shard["sequences"]) for shard in store.manifest["shards"])
    return sum(len(_within(b, documents)) for b in store.sequences(256))


def _within(batch: "SequenceBatch", documents: Documents) -> Int[np.ndarray, " some"]:
    """Rows of a batch whose tokens all are of these documents."""
    doc_ids = np.asarray(batch.doc_ids)
    if documents is None:
        return np.arange(len(doc_ids))
    outside = (doc_ids < documents[0]) | (doc_ids >= documents[1])
    return np.flatnonzero(~(outside & batch.tokens.real.numpy()).any(1))
