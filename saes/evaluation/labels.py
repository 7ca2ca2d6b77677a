"""For every label the best single latent, chosen on one half of the text and scored on the other.

Steps, numbered in the body:

1. On the selection half, count for every latent, activation level and label how often they meet:
   one sparse product for all labels and all latents (levels are the latent's own quantiles).
2. Turn the counts into F1 at every level; keep the few best latents of each label.
3. For those, try every threshold there is; the best F1 wins. Latent and threshold are now fixed.
4. On the scoring half, F1 at that threshold and AUROC, with intervals over documents.

Do not read the F1 of the selection half as a result: it is the maximum of thousands of tries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from lensbench.errors import ConfigError, MismatchError
from lensbench.saes.evaluation.sums import Measured, Sums, bootstrap_documents
from lensbench.stats import auroc as auroc

Latents: TypeAlias = Any
"""A ``scipy.sparse.csr_array`` ``[rows, d_sae]``; scipy has no types to name it by."""

LEVELS = 16
CANDIDATES = 6


@dataclass(frozen=True)
class LabelledRows:
    """Labels of activation rows, and which half each row belongs to."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    """``lexical`` or ``contextual``, one per label."""
    values: Bool[np.ndarray, "rows labels"]
    docs: Int[np.ndarray, " rows"]
    tokens: Int[np.ndarray, " rows"]
    held: Bool[np.ndarray, " rows"]
    """True in the scoring half: documents whose combinations the selection half never shows."""
    split: str
    """In words: what separates the halves."""

    def __repr__(self) -> str:
        """One line: rows and labels."""
        names = ", ".join(self.names[:4]) + ", ..." * (len(self.names) > 4)
        return f"LabelledRows({len(self.values):,} rows, {len(self.names)} labels: {names})"

    def __post_init__(self) -> None:
        """Refuse halves that share a document, and an empty half."""
        if not self.held.any() or self.held.all():
            raise ConfigError(f"one half of the split is empty ({self.split}); use more documents")
        both = np.intersect1d(self.docs[self.held], self.docs[~self.held])
        if len(both):
            raise MismatchError(f"{len(both)} documents lie in both halves, e.g. {both[:3]}")

    def taking(self, at: Int[np.ndarray, " some"]) -> "LabelledRows":
        """Some of the rows; see the class for the errors."""
        return LabelledRows(
            self.names, self.kinds, self.values[at], self.docs[at], self.tokens[at],
            self.held[at], self.split,
        )  # fmt: skip

    def replacing(self, values: Bool[np.ndarray, "rows labels"]) -> "LabelledRows":
        """The same rows under other labels (a control)."""
        return LabelledRows(
            self.names, self.kinds, values, self.docs, self.tokens, self.held, self.split
        )


@dataclass(frozen=True)
class LabelScore:
    """One label: the chosen latent, its threshold, and its scores on the scoring half."""

    label: str
    latent: int
    """-1 where no latent was chosen (the label never occurs in the selection half)."""
    threshold: float
    f1_selected: float
    """F1 on the selection half: optimistic, only to compare with ``f1``."""
    f1: Measured
    auroc: float
    n_positive: int
    """Tokens with the label in the scoring half."""


def f1_score(true_positive: float, predicted: float, positive: float) -> float:
    """Harmonic mean of precision and recall: 2 TP / (predicted + positive).

    Unitless, 0 to 1; predicting always scores 2p / (1 + p) at base rate p. NaN without positives.
    Source: van Rijsbergen 1979.
    """
    return 2 * true_positive / (predicted + positive) if positive else float("nan")


def best_latents(acts: Latents, rows: LabelledRows, *, seed: int = 0) -> tuple[LabelScore, ...]:
    """The best single latent of every label; see the module for the steps.

    Args:
        acts: latents ``[rows, d_sae]``, zero where inactive; a negative activation never fires.
        rows: labels of those rows.
        seed: of the bootstrap over documents.

    Raises:
        MismatchError: not one label row per activation row.
    """
    if acts.shape[0] != len(rows.docs):
        raise MismatchError(f"{acts.shape[0]} rows of latents but {len(rows.docs)} of labels")
    chosen = acts[~rows.held].tocsc()
    scored = acts[rows.held].tocsc()
    candidates = _candidates(chosen, rows.values[~rows.held])
    scores: list[LabelScore] = []
    for i, name in enumerate(rows.names):
        truth = rows.values[~rows.held, i]
        tries = [(*_best_threshold(chosen, j, truth), j) for j in candidates[i]]
        f1, threshold, latent = max(tries, default=(float("nan"), float("inf"), -1))
        scores.append(_score(name, latent, threshold, f1, scored, rows, i, seed))
    return tuple(scores)


def _candidates(acts: Latents, labels: Bool[np.ndarray, "rows labels"]) -> list[list[int]]:
    n_latents, n_labels = acts.shape[1], labels.shape[1]
    column = np.repeat(np.arange(n_latents), np.diff(acts.indptr))
    keep = acts.data > 0
    column, row, value = column[keep], acts.indices[keep], acts.data[keep]
    order = np.lexsort((-value, column))
    column, row = column[order], row[order]
    counts = np.bincount(column, minlength=n_latents)
    rank = np.arange(len(column)) - np.repeat(np.cumsum(counts) - counts, counts)
    level = rank * LEVELS // np.maximum(counts[column], 1)
    slot = column * LEVELS + level
    shape = (n_latents * LEVELS, acts.shape[0])
    meets = sparse.csr_array((np.ones(len(slot), np.float32), (slot, row)), shape=shape)
    hits = np.asarray(meets @ labels.astype(np.float32))  # 1
    hits = hits.reshape(n_latents, LEVELS, n_labels).cumsum(1)
    predicted = np.bincount(slot, minlength=shape[0]).reshape(n_latents, LEVELS, 1).cumsum(1)
    positive = labels.sum(0)
    f1 = (2 * hits / np.maximum(predicted + positive, 1)).max(1)  # 2
    f1[counts == 0] = -1.0
    top = np.argsort(-f1, axis=0, kind="stable")[:CANDIDATES]
    return [top[f1[top[:, i], i] > 0, i].tolist() if positive[i] else [] for i in range(n_labels)]


def _best_threshold(
    acts: Latents, latent: int, truth: Bool[np.ndarray, " rows"]
) -> tuple[float, float]:
    """Best F1 of ``act >= threshold`` and that threshold, over every value that occurs."""
    span = slice(acts.indptr[latent], acts.indptr[latent + 1])
    value, hit = acts.data[span], truth[acts.indices[span]]
    value, hit = value[value > 0], hit[value > 0]
    order = np.argsort(-value, kind="stable")
    value, hits = value[order], hit[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(value) + 1) + truth.sum())
    f1[:-1][value[:-1] == value[1:]] = -1.0  # a threshold cannot part equal values
    best = int(f1.argmax())  # 3
    return float(f1[best]), float(value[best])


def _score(
    name: str,
    latent: int,
    threshold: float,
    f1: float,
    scored: Latents,
    rows: LabelledRows,
    label: int,
    seed: int,
) -> LabelScore:
    truth, docs = rows.values[rows.held, label], rows.docs[rows.held]
    level = np.zeros(len(truth), np.float32)
    if latent >= 0:
        span = slice(scored.indptr[latent], scored.indptr[latent + 1])
        level[scored.indices[span]] = scored.data[span]
    says = level >= threshold
    measured = f1_interval(says, truth, docs, seed=seed)  # 4
    area = auroc(level, truth) if latent >= 0 else float("nan")
    return LabelScore(name, latent, threshold, f1, measured, area, int(truth.sum()))


def f1_interval(
    says: Bool[np.ndarray, " rows"],
    truth: Bool[np.ndarray, " rows"],
    docs: Int[np.ndarray, " rows"],
    *,
    seed: int = 0,
) -> Measured:
    """F1 of yes/no predictions with its interval over documents; NaN without positives."""
    _, index = np.unique(docs, return_inverse=True)
    sums: Sums = {
        "hits": np.bincount(index, weights=says & truth),
        "said": np.bincount(index, weights=says),
        "true": np.bincount(index, weights=truth),
    }

    def f1(s: Sums) -> Float[np.ndarray, " draws"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = 2 * s["hits"] / (s["said"] + s["true"])
        return np.where(s["true"] > 0, value, np.nan)

    return bootstrap_documents(sums, f1, seed=seed)


def lookup_predictions(
    tokens: Int[np.ndarray, " rows"],
    values: Bool[np.ndarray, "rows labels"],
    held: Bool[np.ndarray, " rows"],
) -> Bool[np.ndarray, "held labels"]:
    """What the current token alone says of each label: the strongest context-free reading.

    Tokens are ranked by how often they carry the label in the selection half and cut where F1 is
    best there. A latent that does not beat this has learned words, not contexts.
    """
    vocab, index = np.unique(tokens, return_inverse=True)
    n = len(vocab)
    seen = np.bincount(index[~held], minlength=n)
    out = np.zeros((int(held.sum()), values.shape[1]), bool)
    for i in range(values.shape[1]):
        hits = np.bincount(index[~held], weights=values[~held, i], minlength=n)
        rate = hits / np.maximum(seen, 1)
        order = np.argsort(-rate, kind="stable")
        f1 = 2 * hits[order].cumsum() / np.maximum(seen[order].cumsum() + hits.sum(), 1)
        says = np.zeros(n, bool)
        says[order[: int(f1.argmax()) + 1]] = hits.sum() > 0
        out[:, i] = says[index[held]]
    return out


def check_same_tokens(
    stored: Int[np.ndarray, " rows"], labelled: Int[np.ndarray, " rows"], what: Sequence[str] = ()
) -> None:
    """Refuse labels of another text.

    Raises:
        MismatchError: the token ids differ anywhere.
    """
    if len(stored) != len(labelled):
        raise MismatchError(f"the store has {len(stored)} rows but the labels {len(labelled)}")
    wrong = np.flatnonzero(np.asarray(stored) != np.asarray(labelled))
    if len(wrong):
        at = int(wrong[0])
        raise MismatchError(
            f"{len(wrong)} of {len(stored)} stored token ids differ from the labelled text, first "
            f"at row {at}: {int(stored[at])} stored, {int(labelled[at])} labelled. Use the corpus "
            f"the store was captured from.{' ' + ', '.join(what) if what else ''}"
        )
