"""How much a hypervector holds: theory, and a simulation beside it.

A bundle of k bound pairs is unbound by one key. The right value then has similarity about
Normal(m, (1 - m^2) s^2), with m = ``unbound_similarity(k)`` and s = ``noise(dim)``; each of the
other n - 1 names has Normal(0, s^2). It is read back where it beats them all:

    P(right) = E_z[ Phi((m + sqrt(1 - m^2) s z) / s)^(n - 1) ],  z ~ Normal(0, 1)

The names are taken to be independent, which they are when drawn at random.
Source: Plate 2003; Frady, Kleyko and Sommer 2018, arXiv:1707.01429.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError
from lensbench.probes.hd.spaces import Space, space_named
from lensbench.results import Controls, Result
from lensbench.stats import wilson

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_ACCURACY = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class CapacityCurve(Result):
    """Share of values read back from bundles of k pairs: measured, and as theory has it."""

    space: str
    dim: int
    n_items: int
    sizes: tuple[int, ...]
    hits: tuple[int, ...]
    """Values read back, of ``trials`` per size."""
    trials: int
    similarity: Float[np.ndarray, " sizes"]
    """Mean similarity of the unbound vector with the right value."""

    def to_frame(self) -> "pd.DataFrame":
        """One row per number of pairs: measured share with Wilson interval, theory, similarity."""
        import pandas as pd

        space, rows = space_named(self.space), []
        for k, hit, similarity in zip(self.sizes, self.hits, self.similarity, strict=True):
            share = wilson(hit, self.trials)
            rows.append({
                "pairs": k, "recovered": share.mean, "low": share.low, "high": share.high,
                "theory": retrieval_accuracy(space, self.dim, self.n_items, k),
                "similarity": float(similarity), "similarity_theory": space.unbound_similarity(k),
                "n": self.trials,
            })  # fmt: skip
        frame = pd.DataFrame(rows)
        frame.attrs["units"] = {
            "recovered": "share of values",
            "theory": "probability",
            "n": "bundles",
        }
        return frame

    def plot(self) -> "go.Figure":
        """Measured and expected share over the number of pairs."""
        import pandas as pd

        from lensbench.plots import lines

        frame = self.to_frame()
        theory = frame.assign(recovered=frame["theory"], low=np.nan, high=np.nan, source="theory")
        both = pd.concat([frame.assign(source="measured"), theory], ignore_index=True)
        both.attrs["units"] = {"recovered": "share of values", "n": "bundles"}
        return lines(
            both, x="pairs", y="recovered", color="source", low="low", high="high",
            title=f"Capacity of {self.space}", subtitle=f"{self.dim} dimensions, "
            f"{self.n_items} names · n = {self.trials} bundles a point",
            labels={"pairs": "bound pairs"},
        )  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Capacity by theory, and the largest gap between theory and measurement."""
        frame = self.to_frame()
        gap = np.abs(frame["recovered"].to_numpy(float) - frame["theory"].to_numpy(float))
        return {
            "capacity_pairs": float(capacity(space_named(self.space), self.dim, self.n_items)),
            "largest_gap": float(gap.max()),
        }


def retrieval_accuracy(space: "str | Space", dim: int, n_items: int, k: int) -> float:
    """Probability that one of ``k`` bundled pairs is read back by its key, 0 to 1."""
    from scipy.stats import norm

    chosen = space_named(space)
    m, s = chosen.unbound_similarity(k), chosen.noise(dim)
    best = (m + np.sqrt(max(0.0, 1 - m * m)) * s * _NODES) / s
    others = np.exp((n_items - 1) * norm.logcdf(best))
    return float((_WEIGHTS * others).sum() / _WEIGHTS.sum())


def capacity(space: "str | Space", dim: int, n_items: int, *, accuracy: float = _ACCURACY) -> int:
    """Largest number of pairs read back with at least this probability (0: not even one)."""
    k = 0
    while k < dim and retrieval_accuracy(space, dim, n_items, k + 1) >= accuracy:
        k += 1
    return k


def needed_dim(
    space: "str | Space", n_items: int, pairs: int, *, accuracy: float = _ACCURACY
) -> int:
    """Smallest power of two that holds ``pairs`` among ``n_items`` names."""
    dim = 16
    while retrieval_accuracy(space, dim, n_items, pairs) < accuracy:
        dim *= 2
    return dim


def capacity_curve(
    space: "str | Space" = "MAP",
    *,
    dim: int = 1024,
    n_items: int = 500,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    trials: int = 200,
    seed: int = 0,
) -> CapacityCurve:
    """Bundle k random pairs, unbind one by its key, and see whether its value is the nearest name.

    The control reads with a key that is in no pair.

    Raises:
        ConfigError: no sizes, or sizes, trials or names that are no positive whole numbers.

    Example:
        >>> curve = probes.capacity_curve("MAP", dim=256, n_items=50, sizes=(2, 8), trials=10)
    """
    start, chosen = time.monotonic(), space_named(space)
    sizes = tuple(whole_number("sizes", k, least=1) for k in sizes)
    trials = whole_number("trials", trials, least=1)
    n_items = whole_number("n_items", n_items, least=2)
    if not sizes:
        raise ConfigError("sizes is empty; name at least one number of pairs")
    items = chosen.random(n_items, dim=dim, seed=seed)
    rng = torch.Generator().manual_seed(seed + 1)
    hits, similarity, strange = [], [], 0
    for k in sizes:
        right, total = 0, 0.0
        for trial in range(trials):
            values = torch.randint(0, n_items, (k,), generator=rng)
            keys = chosen.random(
                k + 1, dim=dim, seed=int(torch.randint(2**31, (1,), generator=rng))
            )
            pairs = chosen.bind(keys[:k], items[values])
            bundle = chosen.bundle(pairs, seed=trial)
            found = chosen.similarities(chosen.unbind(bundle, keys[torch.tensor([0, k])]), items)
            right += int(found[0].argmax() == values[0])
            strange += int(found[1].argmax() == values[0])
            total += float(found[0, values[0]])
        hits.append(right)
        similarity.append(total / trials)
    settings: dict[str, Any] = {"seed": seed}
    return CapacityCurve(
        space=chosen.name, dim=dim, n_items=n_items, sizes=sizes, hits=tuple(hits), trials=trials,
        similarity=np.array(similarity), config=settings,
        controls=Controls({"strange_key": strange / (trials * len(sizes))},
                          "share read back with a key that is in no pair"),
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip
