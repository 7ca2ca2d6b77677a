"""Angles between the subspaces that probes read, beside random subspaces of the same ranks.

Use it for one task at two checkpoints, or for two tasks at one. An angle means nothing by itself:
in 768 dimensions two random planes stand at 87 degrees and two random 50-dimensional subspaces at
77, so ranks (numbers of classes) decide what is near.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError, NonFiniteError
from lensbench.probes.linear.probe import LinearProbe
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_NOTHING = 1e-9
"""Share of the largest singular value below which a direction is rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SubspaceAngles(Result):
    """Mean principal angle of every pair, degrees: 0 the same subspace, 90 orthogonal.

    ``random``, ``random_low`` and ``random_high`` are the mean and the 95 % range of the same
    number for random subspaces of those ranks.
    """

    names: tuple[str, ...]
    ranks: Int[np.ndarray, " probes"]
    width: int
    mean: Float[np.ndarray, "probes probes"]
    random: Float[np.ndarray, "probes probes"]
    random_low: Float[np.ndarray, "probes probes"]
    random_high: Float[np.ndarray, "probes probes"]
    smallest: Float[np.ndarray, "probes probes"]
    """The smallest principal angle of each pair, degrees."""
    largest: Float[np.ndarray, "probes probes"]
    draws: int = 0
    sites: tuple[str, ...] = field(default=())

    def to_frame(self) -> "pd.DataFrame":
        """One row per pair, each pair once; ``closer`` where it is below the random range."""
        import pandas as pd

        a, b = np.triu_indices(len(self.names), 1)
        columns: dict[str, Any] = {
            "first": [self.names[i] for i in a], "second": [self.names[j] for j in b],
            "rank_first": self.ranks[a], "rank_second": self.ranks[b],
        }  # fmt: skip
        for name in ("mean", "random", "random_low", "random_high", "smallest", "largest"):
            columns[name] = getattr(self, name)[a, b]
        frame = pd.DataFrame(columns)
        frame["closer"] = frame["mean"] < frame["random_low"]
        frame["n"] = np.minimum(self.ranks[a], self.ranks[b])
        frame.attrs["units"] = dict.fromkeys(
            ("mean", "random", "random_low", "random_high", "smallest", "largest"), "degrees"
        ) | {"n": "principal angles"}
        return frame

    def summary(self) -> dict[str, float]:
        """Pairs, their mean angle, that of random subspaces, and the share that is closer."""
        frame: Any = self.to_frame()
        return {
            "pairs": float(len(frame)), "mean": float(frame["mean"].mean()),
            "random": float(frame["random"].mean()), "closer": float(frame["closer"].mean()),
        }  # fmt: skip

    def plot(self) -> "go.Figure":
        """Two probes: a bar beside the random one; else all pairs as degrees below random."""
        import pandas as pd

        from lensbench.plots import bars, heatmap

        if len(self.names) == 2:
            row: Any = self.to_frame().iloc[0]
            frame = pd.DataFrame({
                "subspaces": ["these two", "random ones"], "angle": [row["mean"], row["random"]],
                "low": [row["mean"], row["random_low"]], "high": [row["mean"], row["random_high"]],
            })  # fmt: skip
            return bars(frame, x="subspaces", y="angle", low="low", high="high", unit="degrees",
                        title=f"{self.names[0]} and {self.names[1]}",
                        subtitle=f"mean of n = {int(row['n'])} principal angles · {self.draws} "
                        "pairs of random subspaces")  # fmt: skip
        a, b = np.indices(self.mean.shape)
        frame = pd.DataFrame({
            "probe": a.ravel(), "other": b.ravel(), "below_random": (self.random - self.mean)[a, b]
            .ravel(), "angle": self.mean.ravel(), "random": self.random.ravel(),
        })  # fmt: skip
        return heatmap(
            frame, x="other", y="probe", value="below_random", unit="degrees", diverging=True,
            x_labels=dict(enumerate(self.names)), hover_columns=("angle", "random"),
            title="Angles between probes", labels={"below_random": "random - angle"},
            subtitle="mean principal angle below that of random subspaces of the same ranks · "
            f"n = {self.draws} random pairs",
        )  # fmt: skip


def subspace_angles(
    probes: Mapping[str, Any], *, draws: int = 200, seed: int = 0
) -> SubspaceAngles:
    """Mean principal angle between the row spaces of probes' weights, every pair.

    Principal angles: cos theta_i = i-th singular value of Q_a^T Q_b, Q orthonormal bases of the row
    spaces; as many as the smaller rank. Of several classes the mean of the rows is taken out first:
    it changes no softmax probability, so C classes span C - 1 dimensions.
    Random subspaces: ``draws`` pairs of Gaussian matrices of the same ranks. The mean of cos^2
    over them is max(rank) / width exactly.
    Source: Bjorck & Golub 1973 (``scipy.linalg.subspace_angles``); Mueller-Eberstein et al. 2023,
    arXiv:2310.16484 (between probes; how they average is not said, here all angles count alike).

    Args:
        probes: by name: :class:`~lensbench.probes.linear.probe.LinearProbe`, or weights
            ``[outputs, width]`` (or one direction ``[width]``), taken as they are.
        draws: pairs of random subspaces per pair of ranks.
        seed: of the draws.

    Raises:
        ConfigError: fewer than two probes, weights of zeros or of another shape.
        MismatchError: other widths, or probes of different sites.
        NonFiniteError: weights that are not finite.

    Example:
        >>> one, other = torch.randn(3, 128), torch.randn(3, 128)
        >>> found = probes.subspace_angles({"one": one, "other": other}, draws=20)
    """
    start = time.monotonic()
    count, seed = whole_number("draws", draws, least=2), whole_number("seed", seed, least=0)
    named: Any = probes
    if not isinstance(named, Mapping):
        raise ConfigError(f"probes must be given by name (a mapping), got {type(named).__name__}")
    if len(probes) < 2:
        raise ConfigError(f"angles need at least two probes by name, got {len(probes)}")
    bases = {str(name): _basis(str(name), probe) for name, probe in probes.items()}
    widths = {name: q.shape[0] for name, q in bases.items()}
    if len(set(widths.values())) > 1:
        raise MismatchError(f"probes read vectors of different widths: {widths}")
    sites = tuple(dict.fromkeys(p.site for p in probes.values() if isinstance(p, LinearProbe)))
    if len(sites) > 1:
        raise MismatchError(
            f"probes read different sites ({', '.join(sites)}), whose axes have nothing to do with "
            "one another; compare probes of one site"
        )
    names, width = tuple(bases), next(iter(widths.values()))
    ranks = np.array([q.shape[1] for q in bases.values()])
    table = np.zeros((6, len(names), len(names)))
    for i, a in enumerate(names):
        for j in range(i, len(names)):
            theta = _angles(bases[a], bases[names[j]])
            pair = sorted((int(ranks[i]), int(ranks[j])))
            found = [theta.mean(), theta.min(), theta.max(), *_random(width, *pair, count, seed)]
            table[:, i, j] = table[:, j, i] = found
    off = ~np.eye(len(names), dtype=bool)
    return SubspaceAngles(
        names=names, ranks=ranks, width=width, mean=table[0], smallest=table[1], largest=table[2],
        random=table[3], random_low=table[4], random_high=table[5], draws=count, sites=sites,
        controls=Controls({"random_subspaces": float(table[3][off].mean())}, "degrees"),
        provenance=provenance.record(seed=seed, seconds=time.monotonic() - start),
    )  # fmt: skip


def random_angle(width: int, rank: int, other: int | None = None, *, draws: int = 200,
                 seed: int = 0) -> tuple[float, float, float]:  # fmt: skip
    """Mean principal angle of random subspaces, degrees, with the 95 % range of that mean.

    Raises:
        ConfigError: ranks that do not fit the width.
    """
    ranks = sorted((rank, rank if other is None else other))
    for value in ranks:
        if whole_number("rank", value, least=1) > whole_number("width", width, least=1):
            raise ConfigError(f"a subspace of {width} dimensions has rank 1..{width}, got {value}")
    return _random(width, ranks[0], ranks[1], whole_number("draws", draws, least=2), seed)


@lru_cache(maxsize=256)
def _random(width: int, a: int, b: int, draws: int, seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng([seed, width, a, b])
    # Only the angle between the two matters, so the larger one may stand on the first axes.
    means = np.empty(draws)
    for i in range(draws):
        q = np.linalg.qr(rng.normal(size=(width, a)))[0]
        cosines = np.linalg.svd(q[:b], compute_uv=False)
        means[i] = np.degrees(np.arccos(cosines.clip(0, 1))).mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(means.mean()), float(low), float(high)


def _angles(
    a: Float[np.ndarray, "width r"], b: Float[np.ndarray, "width s"]
) -> Float[np.ndarray, " angles"]:
    from scipy.linalg import subspace_angles as between

    return np.degrees(between(a, b))


def _basis(name: str, probe: Any) -> Float[np.ndarray, "width rank"]:
    classes = isinstance(probe, LinearProbe) and len(probe.classes) > 2
    raw: Any = probe.weights if isinstance(probe, LinearProbe) else probe
    weights = np.atleast_2d(np.asarray(raw.detach().cpu() if hasattr(raw, "detach") else raw))
    if weights.ndim != 2 or weights.dtype.kind not in "fiu":
        raise ConfigError(
            f"probe {name!r} must be a LinearProbe or weights [outputs, width], got "
            f"{weights.dtype} of shape {list(weights.shape)}"
        )
    if not np.isfinite(weights).all():
        raise NonFiniteError(f"weights of probe {name!r} are not all finite")
    weights = weights.astype(np.float64)
    if classes:
        weights = weights - weights.mean(0)
    _, s, vh = np.linalg.svd(weights, full_matrices=False)
    if not s.any():
        raise ConfigError(f"weights of probe {name!r} are all zero: they span nothing")
    return vh[s > s[0] * _NOTHING].T
