"""Coverage and high-precision reconstruction of any yes/no labels (board squares, attributes).

Both turn latents into yes/no features at shared fractions of each latent's own maximum. Coverage
asks for one good latent per label, and a latent that is always on gets much of it free; the
reconstruction asks that precise latents together say every label of a row, and gives it nothing.
"""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy import sparse

from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.inputs import latents_of, random_latents, rows_of, shuffled
from lensbench.saes.evaluation.labels import LabelledRows, Latents
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FRACTIONS = tuple(round(0.1 * i, 1) for i in range(10))
PRECISION = 0.95
FIRINGS = 10
_NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCoverage(Result):
    """Coverage and reconstruction by source and threshold; the floor and baselines are sources."""

    sources: ClassVar[tuple[str, ...]] = (
        "latents", "constant", "neurons", "random_dictionary", "shuffled_labels",
    )  # fmt: skip
    labels: tuple[str, ...]
    fractions: tuple[float, ...]
    """Shares of a latent's maximum over the fitting rows above which it says yes."""
    f1: Float[np.ndarray, "sources fractions labels"]
    """Largest F1 of a single latent on the scored rows; NaN for a label without positives."""
    f1_chosen: Float[np.ndarray, "sources fractions labels"]
    """F1 on the scored rows of the latent that is best on the fitting rows."""
    best: Int[np.ndarray, "fractions labels"]
    """That latent, among the latents of the dictionary; -1 without positives to choose on."""
    rows_f1: Float[np.ndarray, "sources fractions rows"]
    """Reconstruction of each scored row; NaN where it has no label and none is said."""
    n_marked: Int[np.ndarray, "sources fractions"]
    """Pairs of latent and label that are precise enough to be used."""
    docs: Int[np.ndarray, " rows"]
    """Document of each scored row."""
    split: str = ""

    def coverage(self, source: str = "latents", *, chosen: bool = False) -> Interval:
        """Mean over labels of the F1 at the best shared threshold; interval over labels.

        With ``chosen`` the latent of every label comes from the fitting rows: the honest number,
        where the published one is the largest of many tries.
        """
        s = self.sources.index(source)
        known = np.isfinite(self.f1[s])
        if not known.any():
            return _NOTHING
        at = self._best(self.f1[s])
        values = (self.f1_chosen if chosen else self.f1)[s, at]
        values = np.where(known[at], np.nan_to_num(values), np.nan)
        return bootstrap_mean(values[np.isfinite(values)])

    def reconstruction(self, source: str = "latents") -> Interval:
        """Mean over rows of the F1 at the best shared threshold; interval over documents."""
        s = self.sources.index(source)
        if not np.isfinite(self.rows_f1[s]).any():
            return _NOTHING
        values = self.rows_f1[s, self._best(self.rows_f1[s])]
        known = np.isfinite(values)
        return bootstrap_mean(values[known], self.docs[known])

    @staticmethod
    def _best(values: Float[np.ndarray, "fractions n"]) -> int:
        known = np.isfinite(values)
        means = np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1)
        return int(np.where(known.any(1), means, -1).argmax())

    def to_frame(self) -> "pd.DataFrame":
        """One row per source and measure: value, interval, n, threshold used."""
        import pandas as pd

        table: list[dict[str, Any]] = []
        for s, source in enumerate(self.sources):
            measures = {
                "coverage": (self.coverage(source), self.f1[s]),
                "coverage, latent chosen": (self.coverage(source, chosen=True), self.f1[s]),
                "reconstruction": (self.reconstruction(source), self.rows_f1[s]),
            }
            for name, (m, by_fraction) in measures.items():
                at = self.fractions[self._best(by_fraction)] if m.n else float("nan")
                table.append({"source": source, "measure": name, "value": m.mean, "low": m.low,
                              "high": m.high, "n": m.n, "threshold": at})  # fmt: skip
        frame = pd.DataFrame(table)
        frame.attrs["units"] = {"value": "F1", "threshold": "share of the maximum"}
        frame.attrs["split"] = self.split
        return frame

    def labels_frame(self) -> "pd.DataFrame":
        """One row per label: best latent and its F1, beside every other source."""
        import pandas as pd

        at = self._best(self.f1[0])
        columns: dict[str, Any] = {"label": list(self.labels), "latent": self.best[at]}
        columns["f1_latent_chosen"] = self.f1_chosen[0, at]
        for s, source in enumerate(self.sources):
            columns[f"f1_{source}"] = self.f1[s, self._best(self.f1[s])]
        return pd.DataFrame(columns)

    def summary(self) -> dict[str, float]:
        """Coverage and reconstruction, and the floor of the constant latent."""
        return {
            "coverage": self.coverage().mean,
            "coverage, constant latent": self.coverage("constant").mean,
            "coverage, neurons": self.coverage("neurons").mean,
            "reconstruction": self.reconstruction().mean,
            "reconstruction, neurons": self.reconstruction("neurons").mean,
        }

    def plot(self) -> "go.Figure":
        """Both measures with intervals, sources side by side."""
        from lensbench.plots import bars

        return bars(
            self.to_frame(), x="measure", y="value", color="source", low="low", high="high",
            title="Coverage and reconstruction of labels",
            subtitle=f"{len(self.labels)} labels, {len(self.docs)} rows scored",
        )  # fmt: skip


def coverage(
    acts: Any, rows: LabelledRows, *, neurons: Any = None, x: Any = None, seed: int = 0
) -> LabelCoverage:
    """How well single latents match labels, and how well precise latents rebuild all of a row's.

    A latent says yes where a_j > t max_j, max_j its maximum over the fitting rows, t one of 0, 0.1
    ... 0.9 shared by all latents. Coverage = max_t mean_g max_j F1(j says yes; label g), 0 to 1.
    Reconstruction: a pair (j, g) is used if, on the fitting rows, j says yes at least 10 times and
    g is true on at least 0.95 of them; g is said of a scored row if a used j says yes there; F1
    over the labels of a row, mean over rows, best shared t, 0 to 1. Rows without a label of which
    none is said are left out, labels without positives too.
    Source: Karvonen et al. 2024 (arXiv:2408.00113), whose text and code share one t where the
    printed formula does not.

    Sources beside the latents: one latent that is always on (2p/(1+p) of coverage and no
    reconstruction), raw neurons (each sign a feature), a random dictionary of the same width and L0
    (these two where ``neurons`` or ``x`` is given), and labels of other documents.

    Args:
        acts: latents ``[rows, d_sae]``.
        rows: labels, see :func:`~lensbench.saes.label_rows`.
        neurons: raw neurons ``[rows, n]``; left out: the channels of ``x``.
        x: the activations ``[rows, d_model]`` that were encoded.
        seed: of the controls.

    Raises:
        ConfigError: no label with a positive in the scored half, or no matrix of numbers.
        MismatchError: another number of rows.
        NonFiniteError: NaN or infinity in what is given.

    Example:
        >>> found = saes.coverage(acts, rows, x=x)
    """
    began, n = time.perf_counter(), len(rows.docs)
    latents = latents_of(acts, n)
    if not rows.values[rows.held].any():
        raise ConfigError("no label has a positive in the scored half; use other labels or rows")
    found = {"latents": _covered(latents, rows)}
    found["constant"] = _covered(sparse.csr_array(np.ones((n, 1))), rows)
    found["shuffled_labels"] = _covered(latents, shuffled(rows, seed))
    raw = None if x is None else rows_of(x, n)
    plain = raw if neurons is None else rows_of(neurons, n, "neurons")
    if plain is not None:
        both = np.concatenate([np.maximum(plain, 0), np.maximum(-plain, 0)], 1)
        found["neurons"] = _covered(sparse.csr_array(both), rows)
    if raw is not None:
        found["random_dictionary"] = _covered(random_latents(raw, latents, seed)[0], rows)
    empty = _Covered(*(np.full_like(v, np.nan, float) for v in vars(found["latents"]).values()))
    parts = [found.get(s, empty) for s in LabelCoverage.sources]
    made = LabelCoverage(
        labels=rows.names,
        fractions=FRACTIONS,
        f1=np.stack([p.f1 for p in parts]),
        f1_chosen=np.stack([p.f1_chosen for p in parts]),
        rows_f1=np.stack([p.rows_f1 for p in parts]),
        n_marked=np.stack([np.nan_to_num(p.n_marked) for p in parts]).astype(np.int64),
        best=found["latents"].best,
        docs=rows.docs[rows.held],
        split=rows.split,
        config={"precision": PRECISION, "firings": FIRINGS, "seed": seed},
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )
    beside = {f"coverage, {s}": made.coverage(s).mean for s in found if s != "latents"}
    beside |= {f"reconstruction, {s}": made.reconstruction(s).mean for s in found if s != "latents"}
    return replace(made, controls=Controls(beside))


@dataclass(frozen=True)
class _Covered:
    f1: Float[np.ndarray, "fractions labels"]
    f1_chosen: Float[np.ndarray, "fractions labels"]
    best: Real[np.ndarray, "fractions labels"]
    """NaN, as all the others, of a source that is not there."""
    rows_f1: Float[np.ndarray, "fractions rows"]
    n_marked: Any


def _covered(acts: Latents, rows: LabelledRows) -> _Covered:
    fit, held = acts[~rows.held], acts[rows.held]
    learn, truth = rows.values[~rows.held], rows.values[rows.held]
    top = np.maximum(np.asarray(fit.max(0).todense()).ravel(), 0)
    each: list[tuple[Any, ...]] = []
    for t in FRACTIONS:
        yes_fit, yes = _says(fit, t * top), _says(held, t * top)
        hits, said = _counts(yes_fit, learn)
        chosen = _f1(hits, said, learn.sum(0))
        best = np.where(learn.any(0), chosen.argmax(0), -1)
        f1 = _f1(*_counts(yes, truth), truth.sum(0))
        picked = np.where(best >= 0, f1[best, np.arange(f1.shape[1])], np.nan)
        marked = (hits >= PRECISION * said[:, None]) & (said[:, None] >= FIRINGS)
        rebuilt = np.asarray(yes @ marked.astype(np.float32)) > 0
        each.append((f1.max(0), picked, best, _rows_f1(rebuilt, truth), int(marked.sum())))
    return _Covered(*(np.stack(column) for column in zip(*each, strict=True)))


def _says(acts: Latents, level: Float[np.ndarray, " d_sae"]) -> Latents:
    yes = acts.copy()
    yes.data = (acts.data > level[acts.indices]).astype(np.float32)
    yes.eliminate_zeros()
    return yes


def _counts(
    yes: Latents, labels: Bool[np.ndarray, "rows labels"]
) -> tuple[Float[np.ndarray, "d_sae labels"], Float[np.ndarray, " d_sae"]]:
    """How often each latent says yes where each label is true, and how often at all."""
    return np.asarray(yes.T @ labels.astype(np.float32)), np.asarray(yes.sum(0)).ravel()


def _f1(hits: Any, said: Any, positive: Any) -> Float[np.ndarray, "d_sae labels"]:
    f1 = 2 * hits / np.maximum(said[:, None] + positive, 1)
    return np.where(positive > 0, f1, np.nan)


def _rows_f1(says: Bool[np.ndarray, "r l"], truth: Bool[np.ndarray, "r l"]) -> Any:
    total = says.sum(1) + truth.sum(1)
    return np.where(total > 0, 2 * (says & truth).sum(1) / np.maximum(total, 1), np.nan)
