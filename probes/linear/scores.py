"""How well probes do on rows that had no part in fitting or choosing, with intervals by document.

Classes: accuracy, balanced accuracy, F1 (of several classes the mean over them), AUROC (one against
the rest, mean). Numbers: R^2 and Spearman's correlation. The headline ``score`` is accuracy (or
balanced accuracy), or R^2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from lensbench.probes.linear.labels import Label
from lensbench.probes.linear.probe import decide
from lensbench.stats import auroc, bounds, spearman

_MOST_UNITS = 2000  # documents resampled at most: 1000 draws of them are 16 MB
_ROUNDING = 1e-12
"""Share of the mean square below which a variance is rounding: numbers that are all equal."""
METRICS = ("accuracy", "balanced_accuracy")
DETAILS = ("balanced_accuracy", "f1", "auroc", "spearman")


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of P probes on the same test rows."""

    score: Float[np.ndarray, " P"]
    """Accuracy of classes, R^2 of numbers (at most 1; 0 is the mean of the test rows)."""
    draws: Float[np.ndarray, "n_boot P"]
    """The same on resampled documents; resamples are the same for all probes."""
    details: dict[str, Float[np.ndarray, " P"]]
    n_rows: Int[np.ndarray, " P"]
    n_docs: Int[np.ndarray, " P"]

    def bounds(self) -> Float[np.ndarray, "2 P"]:
        """95 % percentile interval over documents; NaN for fewer than two of them."""
        return _span(self.draws)

    def minus(self, other: "Scores") -> Float[np.ndarray, "3 P"]:
        """Difference of scores, and its interval: both are drawn on the same documents."""
        difference = self.score - other.score
        return np.concatenate([difference[None], _span(self.draws - other.draws)])


def _span(draws: Float[np.ndarray, "n_boot P"]) -> Float[np.ndarray, "2 P"]:
    """Bounds of each column over the draws that have a value; NaN without draws."""
    if not len(draws):
        return np.full((2, draws.shape[1]), np.nan)
    return np.stack(bounds(draws))  # a draw that misses a class has no balanced accuracy


def score_probes(
    outputs: Sequence[Float[np.ndarray, "..."]],
    labels: Sequence[Label],
    docs: Int[np.ndarray, " rows"],
    *,
    metric: str = "accuracy",
    n_boot: int = 1000,
    seed: int = 0,
    details: bool = True,
) -> Scores:
    """Scores of outputs ``[rows]`` or ``[rows, classes]`` against labels of the same rows.

    Accuracy = share of rows whose class is right; balanced, the mean of that share over classes
    (chance is 1 / classes). R^2 = 1 - sum (y - y_hat)^2 / sum (y - mean)^2. Rows without a label do
    not count. The bootstrap draws documents with replacement, never rows (Efron 1979); above 2,000
    documents it draws from 2,000 sets of whole documents.
    """
    unit = np.unique(docs, return_inverse=True)[1] % _MOST_UNITS if len(docs) else docs
    n = int(unit.max()) + 1 if len(unit) else 0
    rows, n_docs = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    found = {name: np.full(len(labels), np.nan) for name in DETAILS}
    cells, whole = _Cells([], [], [], []), len(np.unique(docs))
    for j, (out, label) in enumerate(zip(outputs, labels, strict=True)):
        known = label.known
        y, said, where = label.values[known], out[known], unit[known]
        rows[j], n_docs[j] = len(y), _distinct(docs, known, whole)
        cells.add(j, said, y, where, n, label, balanced=metric == "balanced_accuracy")
        if details and len(y):
            for name, value in _details(said, y, label).items():
                found[name][j] = value
    score = cells.scores(np.ones((1, n)), len(labels))[0]
    weights = _draws(n, n_boot, seed) if n > 1 else np.zeros((0, n))
    return Scores(score, cells.scores(weights, len(labels)), found, rows, n_docs)


@dataclass(eq=False)
class _Cells:
    """Sums over documents; a score is 1 minus the mean of top over bottom over a label's cells."""

    of: list[int]
    top: list[np.ndarray]
    bottom: list[np.ndarray]
    plain: list[np.ndarray | None]
    """Of a number: sums of y, so that the bottom becomes a sum about the mean; else None."""

    def add(
        self, j: int, said: np.ndarray, y: np.ndarray, where: np.ndarray, n: int, label: Label,
        *, balanced: bool,
    ) -> None:  # fmt: skip
        """The cells of one label: one, or one per class."""
        if label.numeric:
            self._cell(j, where, n, np.square(y - said), np.square(y))
            self.plain[-1] = np.stack([np.bincount(where, weights=w, minlength=n)
                                       for w in (y, np.ones(len(y)))])  # fmt: skip
            return
        wrong = decide(said, False) != y
        parts = [y == k for k in range(len(label.classes))] if balanced else [np.ones(len(y), bool)]
        for part in parts:
            self._cell(j, where, n, wrong & part, part)

    def _cell(self, j: int, where: np.ndarray, n: int, top: np.ndarray, bottom: np.ndarray) -> None:
        self.of.append(j)
        self.top.append(np.bincount(where, weights=top, minlength=n))
        self.bottom.append(np.bincount(where, weights=bottom, minlength=n))
        self.plain.append(None)

    def scores(
        self, weights: Float[np.ndarray, "draws units"], many: int
    ) -> Float[np.ndarray, "draws many"]:
        """Scores under weights of documents; NaN where a cell is empty."""
        if not self.of:
            return np.zeros((len(weights), many))
        top, bottom = weights @ np.stack(self.top, 1), weights @ np.stack(self.bottom, 1)
        out, cells = np.zeros((len(weights), many)), np.bincount(self.of, minlength=many)
        for c, plain in enumerate(self.plain):
            if plain is not None:
                total, count = (weights @ part for part in plain)
                about = bottom[:, c] - total**2 / np.maximum(count, 1)
                # Equal values leave rounding here, and a ratio to it says nothing.
                bottom[:, c] = np.where(about > _ROUNDING * bottom[:, c], about, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(bottom > 0, top / bottom, np.nan)
        for c, j in enumerate(self.of):
            out[:, j] += left[:, c] / cells[j]
        return 1 - out


def _distinct(docs: np.ndarray, known: np.ndarray, whole: int) -> int:
    return whole if known.all() else len(np.unique(docs[known]))


@lru_cache(maxsize=4)
def _draws(n: int, n_boot: int, seed: int) -> Float[np.ndarray, "draws units"]:
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)


def _details(said: np.ndarray, y: np.ndarray, label: Label) -> dict[str, float]:
    if label.numeric:
        return {"spearman": spearman(said, y)}
    k = len(label.classes)
    chosen = decide(said, False)
    met = np.bincount(y * k + chosen, minlength=k * k).reshape(k, k).astype(float)
    there = met.sum(1) > 0
    recall = met.diagonal()[there] / met.sum(1)[there]
    both = met.sum(0) + met.sum(1)
    f1 = 2 * met.diagonal() / np.where(both > 0, both, 1)
    if said.ndim == 1:
        areas = [auroc(said, y == 1)]
    else:
        areas = [auroc(said[:, c], y == c) for c in range(k)]
    known = [a for a in areas if np.isfinite(a)]
    return {
        "balanced_accuracy": float(recall.mean()) if there.all() else float("nan"),
        "f1": float(f1[1] if said.ndim == 1 else f1[there].mean()),
        "auroc": float(np.mean(known)) if known else float("nan"),
    }
