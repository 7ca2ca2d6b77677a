"""The rows that the measures of the suite read, with labels: the text's, yours, or letters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench.errors import ConfigError, LensbenchError, MismatchError, NotEnoughDataError
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.data import EvaluationRows
from lensbench.saes.evaluation.inputs import label_rows
from lensbench.saes.evaluation.labels import LabelledRows
from lensbench.tokens import token_texts

if TYPE_CHECKING:
    from lensbench.store import ActivationStore

WORD_ROWS = 16
"""Rows of one word at most, so that no common word decides a letter."""
LEAST_WORDS = 8


@dataclass(frozen=True)
class SuiteRows:
    """Some of the evaluated rows, with labels; or why there are none."""

    at: Int[np.ndarray, " rows"]
    """Places among all evaluated rows (those of a held-out store come after)."""
    labels: LabelledRows | None
    why_not: str = ""

    @classmethod
    def none(cls, why: str) -> "SuiteRows":
        """No rows, and why."""
        return cls(np.zeros(0, np.int64), None, why)

    def usable(self) -> LabelledRows:
        """The labels.

        Raises:
            NotEnoughDataError: there are none; says why.
        """
        if self.labels is None:
            raise NotEnoughDataError(self.why_not)
        return self.labels


def user_labels(
    labels: Any, store: "ActivationStore", rows: EvaluationRows, seed: int
) -> LabelledRows:
    """Your labels of every stored row, or of every document, on the rows that are evaluated.

    Raises:
        ConfigError: no labels, not truth values, or one half of the split empty.
        MismatchError: neither one value per stored row nor one per document.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ConfigError("labels must map at least one name to a truth value per stored row")
    doc_ids = np.asarray(store.index().doc_ids)
    documents, number = np.unique(doc_ids, return_inverse=True)
    found: dict[str, Any] = {}
    for name, value in labels.items():
        values = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
        if values.shape == doc_ids.shape:
            found[str(name)] = values[rows.rows]
        elif values.shape == documents.shape:
            found[str(name)] = values[number[rows.rows]]
        else:
            raise MismatchError(
                f"label {name!r} has shape {list(values.shape)}; it needs one truth value for each "
                f"of the {len(doc_ids):,} stored rows, or for each of the {len(documents):,} "
                "documents, in the order of the store"
            )
    made = label_rows(found, docs=rows.docs, seed=seed)
    return LabelledRows(
        made.names, made.kinds, made.values, made.docs, rows.tokens, made.held,
        "your labels: a random quarter of the documents scores",
    )  # fmt: skip


def some_documents(labels: LabelledRows, most: int, seed: int) -> SuiteRows:
    """Whole documents in random order up to ``most`` rows, of both halves."""
    docs, number, counts = np.unique(labels.docs, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(own_seed(seed, "suite rows"))
    order = rng.permutation(len(docs))
    kept = order[np.cumsum(counts[order]) <= most]
    at = np.flatnonzero(np.isin(number, kept))
    try:
        return SuiteRows(at, labels.taking(at))
    except LensbenchError:
        return SuiteRows.none(
            f"{most:,} rows (suite_tokens) leave one half without a document; raise suite_tokens"
        )


def letter_rows(
    tokens: Int[np.ndarray, " rows"], tokenizer: Any, most: int, seed: int
) -> SuiteRows:
    """First letters of the tokens that begin a word; words, not documents, are dealt to the halves.

    A token counts where its text is letters only, after a space where the tokenizer marks word
    beginnings so. Every fourth word (by chance) scores, so that no word is on both sides; of one
    word 16 rows at most are read. Source of the split by words: Chanin et al. 2024
    (arXiv:2409.14507).
    """
    if tokenizer is None:
        return SuiteRows.none("first letters need the tokenizer: pass the model, or letters=False")
    ids, number = np.unique(tokens, return_inverse=True)
    texts = token_texts(tokenizer, ids.tolist())
    marked = any(text.startswith(" ") for text in texts)
    words = [
        text.strip().casefold() if text.strip().isalpha() and text.startswith(" ") >= marked else ""
        for text in texts
    ]
    special: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
    words = ["" if int(i) in special else w for i, w in zip(ids, words, strict=True)]
    known = sorted({w for w in words if w})
    if len(known) < LEAST_WORDS:
        return SuiteRows.none(
            f"the evaluated rows hold {len(known)} different words that are one token of letters; "
            f"first letters need at least {LEAST_WORDS}"
        )
    place = {w: i for i, w in enumerate(known)}
    of = np.array([place.get(w, -1) for w in words])[number]
    rng = np.random.default_rng(own_seed(seed, "words"))
    order = rng.permutation(np.flatnonzero(of >= 0))
    order = order[np.argsort(of[order], kind="stable")]
    starts = np.r_[True, of[order][1:] != of[order][:-1]]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    chosen = rng.permutation(order[rank < WORD_ROWS])[:most]
    at = chosen[np.lexsort((chosen, of[chosen]))]  # a word is a run, as a document is
    held = np.zeros(len(known), bool)
    held[rng.permutation(len(known))[: max(1, len(known) // 4)]] = True
    first = np.array([w[0] for w in known])
    letters = sorted(set(first))
    values = first[of[at]][:, None] == np.array(letters)
    names = tuple(f"begins with {letter}" for letter in letters)
    split = f"words are dealt at random, {int(held.sum())} of {len(known)} score"
    labels = LabelledRows(
        names, ("letter",) * len(names), values, of[at], tokens[at], held[of[at]], split
    )
    return SuiteRows(at, labels)


def activations_at(
    parts: "list[tuple[ActivationStore, EvaluationRows]]", site: str, at: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows d_model"]:
    """Activations of these rows, those of a second store after those of the first."""
    out = np.zeros((len(at), parts[0][0].width(site)))
    start = 0
    for store, rows in parts:
        here = (at >= start) & (at < start + len(rows))
        if here.any():
            found = store.rows(site, rows.rows[at[here] - start])
            out[here] = found.reshape(len(found), -1)
        start += len(rows)
    return out
