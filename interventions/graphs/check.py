"""A graph beside the model itself: take a source out, and see what becomes of the target.

1. The edges out of latents with the largest influence, and others at random, each tell what their
   target loses without their source: ``direct = -A[t, s]``; along all paths of the graph ``total``:
   ``-((I - C)^-1 A)[t, s]``, ``C`` the effects per unit of activation.
2. Each source is taken out of the real model (``hold``: with everything else held).
3. Control: the same targets beside the effects of other sources on them.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from lensbench import provenance
from lensbench.arguments import positive_number, whole_number
from lensbench.errors import ConfigError
from lensbench.interventions.attribution.check import correlation
from lensbench.interventions.graphs.result import LatentGraph
from lensbench.interventions.graphs.table import LATENT
from lensbench.interventions.graphs.taken import values_without
from lensbench.models.base import Model
from lensbench.results import Controls, Result
from lensbench.stats import mean_there, missed_among, most_missed

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphCheck(Result):
    """Predicted and measured changes of targets when the source of an edge is taken out."""

    edges: Int[np.ndarray, "edges 2"]
    """Numbers of target and source."""
    names: tuple[str, ...]
    chosen: tuple[str, ...]
    """``top`` or ``random``."""
    direct: Float[np.ndarray, " edges"]
    total: Float[np.ndarray, " edges"]
    other: Float[np.ndarray, " edges"]
    """The control: what another source would do to the target."""
    measured: Float[np.ndarray, " edges"]
    hold: bool
    """Whether everything but the source was held, so that ``direct`` is what to expect."""
    target: Float[np.ndarray, " edges"]
    """What the target is in the run as it is: changes count as shares of its size."""
    large: float
    """From which share of the target on a change counts as large."""
    n_small: int
    """Edges outside the top that were called small, tried or not."""

    @property
    def predicted(self) -> Float[np.ndarray, " edges"]:
        """``direct`` where everything was held, ``total`` in the free model."""
        return self.direct if self.hold else self.total

    def correlation(
        self, predicted: str = "", kind: str = "spearman", *, only: str | None = None
    ) -> float:
        """Of ``direct``, ``total`` or ``other`` with what was measured; NaN below three edges.

        Left out, it is ``direct`` where everything was held, ``total`` in the free model.

        Raises:
            ConfigError: none of these.
        """
        name = predicted or ("direct" if self.hold else "total")
        if name not in ("direct", "total", "other"):
            raise ConfigError(f"predicted is 'direct', 'total' or 'other', got {name!r}")
        keep = np.array([only is None or c == only for c in self.chosen], dtype=bool)
        return correlation(getattr(self, name)[keep], self.measured[keep], kind)

    @property
    def error(self) -> float:
        """Largest ``|direct - measured|``; rounding where everything was held."""
        return float(np.abs(self.direct - self.measured).max())

    @property
    def shares(self) -> tuple[Float[np.ndarray, " edges"], Float[np.ndarray, " edges"]]:
        """Predicted and measured changes over the target's size; NaN where it is 0."""
        return shares_of(self.predicted, self.target), shares_of(self.measured, self.target)

    @property
    def missed(self) -> tuple[int, int]:
        """Random edges called small whose measured change is large; how many were called so."""
        return missed_among(*self.shares, self.chosen, self.large)

    @property
    def missed_bound(self) -> float:
        """Upper 95 % bound on the share of large changes among all edges called small."""
        return most_missed(*self.missed, self.n_small)

    def to_frame(self) -> "pd.DataFrame":
        """One row per edge."""
        import pandas as pd

        return pd.DataFrame({"edge": self.names, "chosen": self.chosen, "direct": self.direct,
                             "total": self.total, "measured": self.measured})  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Rank correlations over all, top and random edges, and of the control; error; missed."""
        return {
            "spearman": self.correlation(), "spearman_top": self.correlation(only="top"),
            "spearman_random": self.correlation(only="random"),
            "spearman_direct": self.correlation("direct"),
            "spearman_control": self.correlation("other"),
            "mean_error": float(mean_there(np.abs(self.shares[0] - self.shares[1]))),
            "missed": float(self.missed[0]), "called_small": float(self.missed[1]),
            "missed_bound": self.missed_bound, "edges": float(len(self.names)),
        }  # fmt: skip

    def plot(self) -> "go.Figure":
        """Predicted against measured."""
        from lensbench.plots import scatter

        said = "everything else held" if self.hold else "in the real model"
        return scatter(
            self.to_frame(), x="measured", y="direct" if self.hold else "total", color="chosen",
            hover_columns=("edge", "direct"), title=f"What targets lose without a source, {said}",
            subtitle=f"rank correlation {self.correlation():.2f}, missed at most "
            f"{self.missed_bound:.0%} of those called small; control: {self.controls}",
        )  # fmt: skip


def check_graph(
    model: Model, graph: LatentGraph, top: int = 20, random: int = 20, *, hold: bool = False,
    large: float = 0.1, seed: int = 0,
) -> GraphCheck:  # fmt: skip
    """Take the sources of edges out of the model; see the module.

    Args:
        model: the one of the graph.
        graph: from :func:`attribution_graph`.
        top: edges of largest influence.
        random: others, drawn from all that are not 0.
        hold: hold attention, norms and all other writes: then ``direct`` is exact.
        large: from which share of what the target is on a change counts as large.
        seed: of the draw and of the control.

    Raises:
        ConfigError: no edge out of a latent, or none asked for.
        MismatchError: a graph of another model.
    """
    began, large = time.monotonic(), positive_number("large", large)
    picked, n_top, rest = _picked(graph, top, random, seed)
    sources, row = np.unique(picked[:, 1], return_inverse=True)
    out = np.zeros((1 + len(sources), graph.n_nodes), dtype=bool)
    out[1 + np.arange(len(sources)), sources] = True  # row 0 is the run as it is
    values = values_without(model, graph, out, hold=hold)
    measured = (values[1:] - values[0])[row, picked[:, 0]]
    effect = graph.adjacency.astype(np.float64)
    direct = -effect[picked[:, 0], picked[:, 1]]
    rng = np.random.default_rng(seed)
    wrong = [rng.choice(np.setdiff1d(sources, [s])) if len(sources) > 1 else s
             for s in picked[:, 1]]  # fmt: skip
    through = -total_effects(graph)
    expected = (-effect if hold else through)[rest[:, 0], rest[:, 1]]
    small = np.abs(shares_of(expected, values[0, rest[:, 0]])) < large
    check = GraphCheck(
        edges=picked, names=tuple(f"{graph.names[s]} -> {graph.names[t]}" for t, s in picked),
        chosen=("top",) * n_top + ("random",) * (len(picked) - n_top), direct=direct,
        total=through[picked[:, 0], picked[:, 1]], measured=measured, hold=hold,
        other=(-effect if hold else through)[picked[:, 0], wrong],
        target=values[0, picked[:, 0]], large=large, n_small=int(small.sum()),
        config={"top": top, "random": random, "hold": hold, "seed": seed},
        provenance=provenance.record(model=vars(model.card), seed=seed,
                                     seconds=time.monotonic() - began),
    )  # fmt: skip
    from dataclasses import replace

    note = "rank correlation of the measured changes with what other sources would do"
    return replace(check, controls=Controls({"other_sources": check.correlation("other")}, note))


def shares_of(changes: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Changes as shares of what is changed, ``change / |target|``; NaN where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(target != 0, changes / np.abs(target), np.nan)


def total_effects(graph: LatentGraph) -> Float[np.ndarray, "target source"]:
    """What each source does to each target along all paths through latents that stay active."""
    effect = graph.adjacency.astype(np.float64)
    latent = graph.are(LATENT)
    unit = np.zeros_like(effect)
    unit[:, latent] = effect[:, latent] / graph.activation[latent]
    return np.linalg.solve(np.eye(len(unit)) - unit, effect)


def _picked(
    graph: LatentGraph, top: int, random: int, seed: int
) -> tuple[np.ndarray, int, np.ndarray]:
    """Edges ``[target, source]``, the top ones first; how many these are; all but the top."""
    from_latent = np.abs(graph.adjacency) * graph.are(LATENT) > 0
    edges = np.argwhere(from_latent)
    n_top = min(whole_number("top", top, least=0), len(edges))
    others = whole_number("random", random, least=0)
    if not len(edges) or n_top + others == 0:
        raise ConfigError("there is no edge out of a latent to verify"
                          if not len(edges) else "ask for top or random edges")  # fmt: skip
    size = graph.edge_influence[edges[:, 0], edges[:, 1]]
    order = np.argsort(-size, kind="stable")
    drawn = np.random.default_rng(seed).permutation(order[n_top:])[:others]
    return edges[np.concatenate([order[:n_top], drawn])], n_top, edges[order[n_top:]]
