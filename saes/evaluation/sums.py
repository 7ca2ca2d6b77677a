"""The formulas of :mod:`~lensbench.saes.evaluation.metrics` by batch, intervals over documents.

Every quantity is a function of sums over documents: a document's sums are kept, so the bootstrap
can draw documents (never tokens) and recompute the ratio. Sums of squares are about a mean known
beforehand (:class:`Moments`), never differences of large numbers, so that shifting the data
changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ConfigError
from lensbench.stats import Interval

N_BOOT = 1000
_MOST_UNITS = 4000  # resampled at most: 1000 draws of them are 32 MB

Sums = dict[str, Float[np.ndarray, " docs"]]
"""Named sums over the tokens of each document."""


class Moments:
    """Mean and sum of squares about it, merged batch by batch in float64.

    Source: Chan, Golub & LeVeque 1983 (the parallel form of Welford's algorithm).
    """

    def __init__(self, width: int) -> None:
        """Nothing seen yet."""
        self.n = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.m2 = torch.zeros(width, dtype=torch.float64)
        """Per dimension: sum_t (x_t - mean)^2."""

    def update(self, x: Float[Tensor, "tokens d_model"]) -> None:
        """Take in one batch."""
        x = x.double().cpu()
        if len(x) == 0:
            return
        mean = x.mean(0)
        delta, total = mean - self.mean, self.n + len(x)
        self.m2 += (x - mean).pow(2).sum(0) + delta.pow(2) * (self.n * len(x) / total)
        self.mean += delta * (len(x) / total)
        self.n = total

    @property
    def total_variance(self) -> float:
        """Trace of the covariance (divided by n); squared units of the site."""
        return float(self.m2.sum()) / self.n if self.n else float("nan")


class ReconstructionSums:
    """What one dictionary's reconstruction costs, per document and per latent."""

    NAMES = (
        "tokens", "l0", "error", "variance", "cosine", "defined", "length", "inner",
        "legacy", "varied", "ratio", "nonzero",
    )  # fmt: skip

    def __init__(self, mean: Float[Tensor, " d_model"], n_docs: int, d_sae: int) -> None:
        """``mean`` is that of the whole evaluation set, about which the variance is taken."""
        self._mean = mean.double().cpu()
        self._sums = {name: np.zeros(n_docs) for name in self.NAMES}
        self.fires = torch.zeros(d_sae, dtype=torch.float64)
        """Number of tokens on which each latent was active."""

    def update(
        self,
        x: Float[Tensor, "tokens d_model"],
        x_hat: Float[Tensor, "tokens d_model"],
        acts: Float[Tensor, "tokens d_sae"],
        docs: Int[np.ndarray, " tokens"],
    ) -> None:
        """Take in one batch; ``docs`` are document numbers 0 .. n_docs - 1."""
        x, x_hat = x.double().cpu(), x_hat.double().cpu()
        active = acts != 0
        self.fires += active.sum(0).double().cpu()
        inner, length = (x * x_hat).sum(-1), x_hat.pow(2).sum(-1)
        cosine = inner / (x.norm(dim=-1) * length.sqrt())
        # A zero vector has no direction. NaN activations are another matter: they stay NaN.
        undefined = (x == 0).all(-1) | (x_hat == 0).all(-1)
        self._add(docs, "tokens", torch.ones(len(x)))
        self._add(docs, "l0", active.sum(-1))
        error, variance = (x - x_hat).pow(2).sum(-1), (x - self._mean).pow(2).sum(-1)
        self._add(docs, "error", error)
        self._add(docs, "variance", variance)
        self._add(docs, "legacy", (1 - error / variance).masked_fill(variance == 0, 0.0))
        self._add(docs, "varied", variance != 0)
        norm = x.norm(dim=-1)
        self._add(docs, "ratio", (length.sqrt() / norm).masked_fill(norm == 0, 0.0))
        self._add(docs, "nonzero", norm != 0)
        self._add(docs, "cosine", cosine.masked_fill(undefined, 0.0))
        self._add(docs, "defined", (~undefined).double())
        self._add(docs, "length", length)
        self._add(docs, "inner", inner)

    def _add(self, docs: Int[np.ndarray, " tokens"], name: str, values: Tensor) -> None:
        into = self._sums[name]
        into += np.bincount(docs, weights=values.double().cpu().numpy(), minlength=len(into))

    @property
    def density(self) -> Float[np.ndarray, " d_sae"]:
        """Share of the tokens seen on which each latent fired."""
        return (self.fires / max(self._sums["tokens"].sum(), 1)).numpy()

    @property
    def mean_l0(self) -> float:
        """Latents per token seen."""
        return float(self._sums["l0"].sum() / max(self._sums["tokens"].sum(), 1))

    def metrics(self, seed: int = 0) -> "dict[str, Measured]":
        """Every reconstruction metric with its interval over documents."""
        ratios = {
            "l0": ("l0", "tokens"),
            "fvu": ("error", "variance"),
            "cosine": ("cosine", "defined"),
            "relative_reconstruction_bias": ("length", "inner"),
            "explained_variance_legacy": ("legacy", "varied"),
            "mse": ("error", "tokens"),
            "l2_ratio": ("ratio", "nonzero"),
        }
        out = {
            name: interval_of_ratio(self._sums[top], self._sums[bottom], seed=seed)
            for name, (top, bottom) in ratios.items()
        }
        gone = out["fvu"]
        out["explained_variance"] = Measured(1 - gone.mean, 1 - gone.high, 1 - gone.low, gone.n)
        tokens = self._sums["tokens"].sum()
        for name in ("cosine", "explained_variance_legacy", "l2_ratio"):
            undefined = int(tokens - self._sums[ratios[name][1]].sum())
            out[name] = Measured(**{**vars(out[name]), "n_undefined": undefined})
        return out


@dataclass(frozen=True)
class Measured(Interval):
    """An :class:`~lensbench.stats.Interval` that also says on how many tokens it had no value."""

    n_undefined: int = 0


def bootstrap_documents(
    sums: Sums, statistic: Callable[[Sums], Float[np.ndarray, " draws"]], *, seed: int = 0
) -> Measured:
    """A function of document sums, with its 95 % percentile bootstrap over documents.

    ``statistic`` gets each sum over a (re)sample as an array, one entry per resample. Draws whose
    value is not finite (such as a resample without a positive) are left out of the interval; where
    the value itself is not finite, so are its bounds. They are NaN too where fewer than two
    documents have a sum other than zero: every resample would give the value again, which says
    nothing about its spread. More than 4,000 documents are first pooled into 4,000 groups of whole
    documents, which leaves the spread of a sum as it is.
    Source: Efron 1979.

    Raises:
        ConfigError: no documents.
    """
    table = np.stack(list(sums.values()), 1)
    n = len(table)
    if n == 0:
        raise ConfigError("an interval needs at least one document, got none")
    value = float(statistic(dict(zip(sums, table.sum(0)[:, None], strict=True)))[0])
    if not np.isfinite(value) or np.count_nonzero(table.any(1)) < 2:
        return Measured(value, float("nan"), float("nan"), n)
    if n > _MOST_UNITS:
        pad = np.zeros((-n % _MOST_UNITS, table.shape[1]))
        table = np.concatenate([table, pad]).reshape(-1, _MOST_UNITS, table.shape[1]).sum(0)
    picked = _draws(len(table), seed) @ table
    drawn = statistic(dict(zip(sums, picked.T, strict=True)))
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Measured(value, float(low), float(high), n)


@lru_cache(maxsize=4)
def _draws(n: int, seed: int) -> Float[np.ndarray, "draws units"]:
    """How often each of ``n`` units is drawn in each resample; shared by all metrics of a set."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=N_BOOT).astype(np.float64)


def interval_of_ratio(
    top: Float[np.ndarray, " docs"], bottom: Float[np.ndarray, " docs"], *, seed: int = 0
) -> Measured:
    """sum(top) / sum(bottom) with its bootstrap interval over documents; NaN where 0 / 0."""

    def ratio(sums: Sums) -> Float[np.ndarray, " draws"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums["top"] / sums["bottom"]

    return bootstrap_documents({"top": top, "bottom": bottom}, ratio, seed=seed)
