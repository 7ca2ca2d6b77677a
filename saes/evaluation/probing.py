"""Sparse probing: how well a label is read from its k best latents, beside the raw channels.

Steps, numbered in the body: 1 choose k columns by the difference of class means on the rows to
choose on; 2 fit a logistic regression to those; 3 score it on the other rows. The same three steps
run on channels, on a random dictionary and on shuffled labels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.inputs import latents_of, shuffled
from lensbench.saes.evaluation.labels import LabelledRows, Latents, auroc, f1_score
from lensbench.saes.evaluation.linear import MAX_ITER, fitted
from lensbench.saes.evaluation.shared import Shared, shared_of
from lensbench.saes.evaluation.sums import interval_of_ratio

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SCORES = ("accuracy", "f1", "auroc")


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseProbing(Result):
    """Scores of k-sparse probes on rows that had no part in choosing or fitting."""

    sources: ClassVar[tuple[str, ...]] = (
        "latents", "channels", "random_dictionary", "shuffled_labels",
    )  # fmt: skip
    labels: tuple[str, ...]
    ks: tuple[int, ...]
    scores: Float[np.ndarray, "sources labels ks 3"]
    """Accuracy, F1 and AUROC; NaN where a class is missing, or where no channels were given."""
    bounds: Float[np.ndarray, "sources labels ks 2"]
    """95 % bootstrap over documents of the accuracy."""
    chance: Float[np.ndarray, "labels 3"]
    """The more frequent class of the fitting rows; always yes, 2p/(1+p); 0.5."""
    chosen: Int[np.ndarray, "labels most"]
    """Latents by falling difference of class means; -1 where a class is missing."""
    n_positive: Int[np.ndarray, " labels"]
    """Positive rows among those scored."""
    n_fit: int
    n_scored: int
    n_documents: int
    """Documents of the scored rows."""
    n_unconverged: int = 0
    """Fits that stopped at ``max_iter``."""
    split: str = ""

    def mean(self, source: str, k: int, score: str = "accuracy") -> float:
        """Mean over the labels that have a value; NaN if none has."""
        at = self.sources.index(source), slice(None), self.ks.index(k), SCORES.index(score)
        return _mean(self.scores[at])

    def to_frame(self) -> "pd.DataFrame":
        """One row per source, label and k; chance has rows of its own."""
        import pandas as pd

        table: list[dict[str, Any]] = []
        for i, label in enumerate(self.labels):
            n = {"n": self.n_documents, "n_positive": int(self.n_positive[i])}
            for j, k in enumerate(self.ks):
                head = {"label": label, "k": k}
                for s, source in enumerate(self.sources):
                    row = dict(zip(SCORES, self.scores[s, i, j], strict=True))
                    low, high = self.bounds[s, i, j]
                    table.append({"source": source, **head, **row, "low": low, "high": high, **n})
                row = dict(zip(SCORES, self.chance[i], strict=True))
                table.append(
                    {"source": "chance", **head, **row, "low": np.nan, "high": np.nan, **n}
                )
        frame = pd.DataFrame(table)
        frame.attrs["units"] = dict.fromkeys(SCORES, "0 to 1")
        frame.attrs["split"] = self.split
        return frame

    def summary(self) -> dict[str, float]:
        """Mean accuracy over labels at every k, and what the channels and chance reach."""
        out = {f"accuracy, k={k}": self.mean("latents", k) for k in self.ks}
        out |= {f"channels, k={k}": self.mean("channels", k) for k in self.ks}
        return out | {"chance": _mean(self.chance[:, 0])}

    def plot(self) -> "go.Figure":
        """Mean accuracy over k, a line per source."""
        import pandas as pd

        from lensbench.plots import lines

        means = [
            {"source": s, "k": k, "accuracy": self.mean(s, k), "n": len(self.labels)}
            for s in self.sources
            for k in self.ks
        ]
        means += [{"source": "chance", "k": k, "accuracy": _mean(self.chance[:, 0]),
                   "n": len(self.labels)} for k in self.ks]  # fmt: skip
        return lines(
            pd.DataFrame(means), x="k", y="accuracy", color="source", title="Sparse probing",
            subtitle=f"{len(self.labels)} labels, {self.n_scored} rows scored", log_x=True,
        )  # fmt: skip


def sparse_probing(
    acts: Any,
    rows: LabelledRows,
    *,
    x: Any = None,
    ks: Sequence[int] = (1, 2, 5),
    seed: int = 0,
    shared: Shared | None = None,
    controls: bool = True,
) -> SparseProbing:
    """Read every label from its k best latents, on held-out rows.

    Columns: the k largest |mean_pos a_j - mean_neg a_j| on the fitting rows. Probe: logistic
    regression, L2 with C = 1, at most 1000 iterations, intercept free. Accuracy, F1 and AUROC on
    the scored rows, 0 to 1. A label of whose two classes one is missing is NaN, and is left out
    of the means. Source: Gurnee et al. 2023 (arXiv:2305.01610); SAEBench (Karvonen et al. 2025,
    arXiv:2503.09532), which balances the classes first: here rows are taken as they are, and
    chance is the more frequent class.

    Controls: raw channels under the same procedure, a random dictionary of the same width and L0
    (both need ``x``), and labels of other documents.

    Args:
        acts: latents ``[rows, d_sae]``, sparse or dense.
        rows: labels and halves, see :func:`~lensbench.saes.label_rows`.
        x: the activations ``[rows, d_model]`` that were encoded.
        ks: numbers of latents.
        seed: of the controls.
        shared: what other dictionaries on these rows share, instead of ``x``.
        controls: False leaves them out.

    Raises:
        ConfigError: no such ``ks``, or latents that are no matrix of numbers.
        MismatchError: another number of rows.
        NonFiniteError: NaN or infinity in latents or activations.

    Example:
        >>> found = saes.sparse_probing(acts, rows, x=x, ks=(1, 2))
        >>> frame = found.to_frame()
    """
    began = time.perf_counter()
    latents = latents_of(acts, len(rows.docs))
    sizes = _sizes(ks, latents.shape[1])
    found = {"latents": _probe(latents, rows, sizes)}
    if controls:
        found |= _beside(latents, rows, x, sizes, seed, shared)
    nothing = np.full_like(found["latents"].scores, np.nan)
    scores = [found[s].scores if s in found else nothing for s in SparseProbing.sources]
    bounds = [found[s].bounds if s in found else nothing[..., :2] for s in SparseProbing.sources]
    by_chance = {
        f"{name}, k={k}": _mean(p.scores[:, i, 0])
        for name, p in found.items()
        for i, k in enumerate(sizes)
        if name != "latents"
    }
    truth = rows.values[rows.held]
    chance = _chance(rows)
    return SparseProbing(
        labels=rows.names,
        ks=sizes,
        scores=np.stack(scores),
        bounds=np.stack(bounds),
        chance=chance,
        chosen=found["latents"].chosen,
        n_positive=truth.sum(0),
        n_fit=int((~rows.held).sum()),
        n_scored=len(truth),
        n_documents=len(np.unique(rows.docs[rows.held])),
        n_unconverged=sum(p.unconverged for p in found.values()),
        split=rows.split,
        config={"ks": list(sizes), "seed": seed, "max_iter": MAX_ITER},
        controls=Controls(by_chance | {"chance": _mean(chance[:, 0])}, "mean accuracy over labels"),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def _beside(
    latents: Latents,
    rows: LabelledRows,
    x: Any,
    sizes: tuple[int, ...],
    seed: int,
    shared: Shared | None,
) -> "dict[str, _Probed]":
    """The controls; channels and the random dictionary only with activations."""
    if x is None and shared is None:
        return {"shuffled_labels": _probe(latents, shuffled(rows, seed), sizes)}
    known = shared_of(shared, x, rows, seed)
    noise = known.noise(latents)
    key = ("sparse probing", sizes)
    return {
        "shuffled_labels": _probe(latents, known.moved, sizes),
        "channels": known.once(key, lambda: _probe(known.x, rows, sizes)),
        "random_dictionary": known.once(
            (*key, *noise.shape), lambda: _probe(noise.acts, rows, sizes)
        ),
    }


@dataclass(frozen=True)
class _Probed:
    scores: Float[np.ndarray, "labels ks 3"]
    bounds: Float[np.ndarray, "labels ks 2"]
    chosen: Int[np.ndarray, "labels most"]
    unconverged: int


def _probe(columns: Any, rows: LabelledRows, ks: tuple[int, ...]) -> _Probed:
    """The three steps for every label, on the columns of a dense or sparse matrix."""
    fit, held = columns[~rows.held], columns[rows.held]
    n, most, unconverged = len(rows.names), max(ks), 0
    scores, bounds = np.full((n, len(ks), 3), np.nan), np.full((n, len(ks), 2), np.nan)
    chosen = np.full((n, most), -1)
    for i in range(n):
        y, truth = rows.values[~rows.held, i], rows.values[rows.held, i]
        if y.all() or not y.any():
            continue
        chosen[i] = top_columns(fit, y, most)  # 1
        for j, k in enumerate(ks):
            at = chosen[i, :k]
            probe, settled = fitted(_dense(fit, at), y)  # 2
            unconverged += not settled
            level = probe.decision_function(_dense(held, at))
            scores[i, j], bounds[i, j] = _scored(level, truth, rows.docs[rows.held])  # 3
    return _Probed(scores, bounds, chosen, unconverged)


def top_columns(columns: Any, y: Bool[np.ndarray, " rows"], k: int) -> Int[np.ndarray, " k"]:
    """The ``k`` columns of largest |mean over y - mean over not y|, largest first."""
    apart = np.asarray(columns[y].mean(0)) - np.asarray(columns[~y].mean(0))
    return np.argsort(-np.abs(apart.ravel()), kind="stable")[:k]


def _scored(
    level: Float[np.ndarray, " rows"], truth: Bool[np.ndarray, " rows"], docs: Any
) -> tuple[Any, Any]:
    says = level > 0
    _, index = np.unique(docs, return_inverse=True)
    right = interval_of_ratio(
        np.bincount(index, weights=says == truth), np.bincount(index).astype(float)
    )
    f1 = f1_score(float((says & truth).sum()), float(says.sum()), float(truth.sum()))
    return (right.mean, f1, auroc(level, truth)), (right.low, right.high)


def _chance(rows: LabelledRows) -> Float[np.ndarray, "labels 3"]:
    majority = rows.values[~rows.held].mean(0) > 0.5
    p = rows.values[rows.held].mean(0)
    always = np.where(p > 0, 2 * p / (1 + p), np.nan)
    return np.stack([np.where(majority, p, 1 - p), always, np.full(len(p), 0.5)], 1)


def _dense(columns: Any, at: Int[np.ndarray, " k"]) -> Float[np.ndarray, "rows k"]:
    part = columns[:, at]
    return part.toarray() if sparse.issparse(part) else part


def _sizes(ks: Sequence[int], d_sae: int) -> tuple[int, ...]:
    sizes = tuple(sorted({whole_number("each of ks", k, least=1) for k in ks}))
    if not sizes or sizes[-1] > d_sae:
        raise ConfigError(f"ks must hold numbers from 1 to d_sae={d_sae}, got {list(ks)}")
    return sizes


def _mean(values: Float[np.ndarray, " n"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
