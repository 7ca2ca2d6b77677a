"""Meta-SAE: do decoder rows share directions? A small dictionary of a dictionary's own rows."""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.provenance import record
from lensbench.results import Controls, Result
from lensbench.saes.evaluation.controls import own_seed
from lensbench.saes.evaluation.inputs import decoder_of, unit_rows
from lensbench.stats import Interval, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

STEPS = 1500


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaStructure(Result):
    """Decoder rows written as sums of few meta-latents, and how much of them that explains."""

    W_dec: Float[np.ndarray, "meta d_model"]
    """Directions of the meta-latents."""
    error: Float[np.ndarray, " d_sae"]
    """Squared error of each (unit) decoder row; NaN for a row of zeros."""
    spread: Float[np.ndarray, " d_sae"]
    """Squared distance of each row from their mean."""
    strongest: Int[np.ndarray, "d_sae k"]
    """Meta-latents of each row by falling strength; -1 where fewer fire."""
    strength: Float[np.ndarray, "d_sae k"]
    explained_random: float
    """Variance explained of as many random directions by the same recipe."""

    @property
    def explained(self) -> float:
        """1 - sum of squared errors / sum of squared distances from the mean row."""
        return float(1 - np.nansum(self.error) / np.nansum(self.spread))

    @property
    def row_error(self) -> Interval:
        """Mean squared error of a unit row, with its interval over rows."""
        return bootstrap_mean(self.error[np.isfinite(self.error)])

    def to_frame(self) -> "pd.DataFrame":
        """One row per decoder row and meta-latent that fires on it."""
        import pandas as pd

        n, k = self.strongest.shape
        frame = pd.DataFrame(
            {
                "latent": np.repeat(np.arange(n), k),
                "meta_latent": self.strongest.ravel(),
                "strength": self.strength.ravel(),
                "error": np.repeat(self.error, k),
            }
        )
        frame.attrs["units"] = {"strength": "of a unit row", "error": "squared, of a unit row"}
        frame.attrs["controls"] = str(self.controls)
        return frame.query("meta_latent >= 0").reset_index(drop=True)

    def summary(self) -> dict[str, float]:
        """Variance explained, beside that of random directions."""
        rows = float(np.isfinite(self.error).sum())
        return {"variance explained": self.explained, "random": self.explained_random, "rows": rows}

    def plot(self) -> "go.Figure":
        """Variance explained beside random directions."""
        import pandas as pd

        from lensbench.plots import bars

        frame = pd.DataFrame(
            {"rows": ["decoder", "random"], "explained": [self.explained, self.explained_random]}
        )
        frame.attrs["units"] = {"explained": "share of variance"}
        return bars(
            frame, x="rows", y="explained", title="Meta-SAE",
            subtitle=f"{len(self.W_dec)} meta-latents of {len(self.error)} latents",
        )  # fmt: skip


def meta_sae(
    dictionary: Any,
    *,
    k: int = 4,
    width: int | None = None,
    steps: int = STEPS,
    lr: float = 1e-3,
    seed: int = 0,
) -> MetaStructure:
    """Train a BatchTopK dictionary on the unit decoder rows of another, and see what it explains.

    Variance explained = 1 - sum_j |d_j - d_hat_j|^2 / sum_j |d_j - mean d|^2 over unit decoder rows
    d_j, with k of F / 4 meta-latents on average. At most 1; the rows it is fitted to are those that
    it is measured on, so read it beside random directions under the same recipe (the control).
    Source: Leask et al. 2025 (arXiv:2502.04878), meta-SAEs; k, width and steps as in SAEBench.

    Args:
        dictionary: something with ``W_dec``, or decoder rows ``[d_sae, d_model]``.
        k: meta-latents per row on average.
        width: number of meta-latents; left out: a quarter of the latents.
        steps: of training, each on up to 512 rows.
        lr: peak learning rate.
        seed: of training and of the control.

    Raises:
        ConfigError: fewer than 8 rows with a direction, or ``k`` above ``width``.
        NonFiniteError: NaN or infinity in the decoder.

    Example:
        >>> found = saes.meta_sae(run, k=2, width=16, steps=50)
    """
    began = time.perf_counter()
    units = unit_rows(decoder_of(dictionary))
    known = np.isfinite(units).all(1)
    if known.sum() < 8:
        raise ConfigError(f"a meta-SAE needs at least 8 decoder rows, got {int(known.sum())}")
    size = len(units) // 4 if width is None else whole_number("width", width, least=1)
    if whole_number("k", k, least=1) > size:
        raise ConfigError(f"k must be at most the width of {size} meta-latents, got {k}")
    entry = {"architecture": "batchtopk", "d_sae": size, "k": k, "lr": lr, "seed": seed}
    n, d_model = units[known].shape
    explained_random = _by_chance(n, d_model, size, k, lr, seed, steps)
    W_dec, error, codes = _fit(units[known], entry, steps)
    order = np.argsort(-codes, 1, kind="stable")[:, : min(size, 2 * k)]
    value = np.take_along_axis(codes, order, 1)
    whole = [np.full(len(units), np.nan) for _ in range(2)]
    whole[0][known], whole[1][known] = error, _spread(units[known])
    strongest = np.full((len(units), order.shape[1]), -1)
    strength = np.zeros(strongest.shape)
    strongest[known], strength[known] = np.where(value > 0, order, -1), value
    return MetaStructure(
        W_dec=W_dec,
        error=whole[0],
        spread=whole[1],
        strongest=strongest,
        strength=strength,
        explained_random=explained_random,
        config={"k": k, "width": size, "steps": steps, "lr": lr, "seed": seed},
        controls=Controls({"random directions": explained_random}, "the same recipe"),
        provenance=record(seed=seed, seconds=time.perf_counter() - began),
    )


def _fit(rows: Float[np.ndarray, "n d"], entry: dict[str, Any], steps: int) -> tuple[Any, Any, Any]:
    """Directions, squared errors and codes of a dictionary trained on these rows."""
    from lensbench.saes.evaluation.implants import fit_with

    batch = min(512, len(rows))
    fit = fit_with(entry, tokens=steps * batch, batch_size=batch, seed=int(entry["seed"]))
    x = torch.from_numpy(rows).float()
    sae = fit(x)
    codes = sae.encode(x)
    error = (x - sae.decode(codes)).pow(2).sum(1)
    return tuple(t.detach().cpu().double().numpy() for t in (sae.W_dec, error, codes))


@lru_cache(maxsize=32)
def _by_chance(n: int, d_model: int, size: int, k: int, lr: float, seed: int, steps: int) -> float:
    """Variance explained of random directions: of the shape alone, so once for all of a shape."""
    rng = np.random.default_rng(own_seed(seed, "random directions"))
    noise = unit_rows(rng.normal(size=(n, d_model)))
    entry = {"architecture": "batchtopk", "d_sae": size, "k": k, "lr": lr, "seed": seed}
    return float(1 - _fit(noise, entry, steps)[1].sum() / _spread(noise).sum())


def _spread(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    return ((rows - rows.mean(0)) ** 2).sum(1)
