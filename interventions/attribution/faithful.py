"""How much of a task a circuit does by itself, against the number of its edges.

1. For each size the largest edges of an attribution are kept and the circuit is really run
   (:mod:`lensbench.interventions.attribution.circuit`).
2. Control: circuits of as many edges drawn at random, a band.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.attribution.circuit import CircuitRun, Written
from lensbench.interventions.attribution.edge_result import EdgeResult, How
from lensbench.interventions.attribution.gradients import Question
from lensbench.interventions.attribution.graph import Graph
from lensbench.interventions.attribution.streams import streams
from lensbench.interventions.metrics import Metric, MetricLike, as_metric
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

N_BOOT = 1000
Mask = Bool[np.ndarray, " edges"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CircuitCurve(Result):
    """Faithfulness of circuits: 0 is the corrupted run, 1 the clean one; it may pass both.

    ``(mean m(C) - mean m(corrupted)) / (mean m(clean) - mean m(corrupted))``.
    """

    task: str
    metric: str
    unit: str
    n_edges: Int[np.ndarray, " sizes"]
    values: Float[np.ndarray, "sizes pairs"]
    """The metric under each circuit, in its unit."""
    random: Float[np.ndarray, "sizes draws pairs"]
    """The same of as many edges at random."""
    clean: Float[np.ndarray, " pairs"]
    corrupted: Float[np.ndarray, " pairs"]
    of: int
    """Edges of the whole graph."""

    @property
    def faithfulness(self) -> Float[np.ndarray, " sizes"]:
        """Of every circuit."""
        return self._faithful(self.values)

    @property
    def random_faithfulness(self) -> Float[np.ndarray, "sizes draws"]:
        """Of every circuit of random edges."""
        return self._faithful(self.random)

    def _faithful(self, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        w = np.ones(len(self.clean)) if weights is None else weights.T
        gap = (self.clean - self.corrupted) @ w
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.abs(gap) > 1e-12, (values - self.corrupted) @ w / gap, np.nan)

    def intervals(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper 95 % bound (prompts resampled); NaN with one prompt."""
        n = len(self.clean)
        if n < 2:
            return np.full(len(self.n_edges), np.nan), np.full(len(self.n_edges), np.nan)
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_BOOT)
        low, high = np.nanquantile(self._faithful(self.values, drawn), [0.025, 0.975], axis=1)
        return low, high

    def to_frame(self) -> "pd.DataFrame":
        """One row per size: the circuit with its interval, then random ones with their range."""
        import pandas as pd

        low, high = self.intervals()
        own = {"circuit": "attributed", "edges": self.n_edges, "faithfulness": self.faithfulness,
               "low": low, "high": high}  # fmt: skip
        rows = [pd.DataFrame(own)]
        if self.random.shape[1]:
            r = self.random_faithfulness
            rows.append(pd.DataFrame(
                {"circuit": "random", "edges": self.n_edges, "faithfulness": r.mean(1),
                 "low": r.min(1), "high": r.max(1)}))  # fmt: skip
        frame = pd.concat(rows, ignore_index=True).assign(n=len(self.clean))
        frame.attrs["units"] = {"faithfulness": "0 = corrupted, 1 = clean", "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Fewest edges with faithfulness .8 and more (NaN: none), and what random ones reach."""
        enough = np.flatnonzero(self.faithfulness >= 0.8)
        first = int(enough[self.n_edges[enough].argmin()]) if len(enough) else -1
        found = {"edges_for_0.8": float(self.n_edges[first]) if len(enough) else float("nan")}
        if len(enough) and self.random.shape[1]:
            found["random_there"] = float(self.random_faithfulness[first].mean())
        return {**found, "edges": float(self.of), "prompts": float(len(self.clean))}

    def plot(self) -> "go.Figure":
        """Faithfulness against edges, with the band of random circuits."""
        from lensbench.plots import lines

        return lines(
            self.to_frame(), x="edges", y="faithfulness", color="circuit", low="low", high="high",
            title=f"{self.task}: circuits of {self.of} edges",
            subtitle=f"{self.metric}, {len(self.clean)} prompts; control: {self.controls}",
        )  # fmt: skip


class Runs:
    """All groups of prompts, ready to be run under circuits.

    With ``swap`` the corrupted prompts are run, and the edges outside a circuit carry clean states.
    """

    def __init__(
        self,
        model: Model,
        pairs: PromptPairs,
        metric: MetricLike,
        batch_size: int,
        *,
        swap: bool = False,
    ) -> None:
        check_pairs(model, pairs)
        size = whole_number("batch_size", batch_size, least=1)
        self.graph, self.metric = Graph.of(model), as_metric(metric)
        self.n_layers = model.n_layers
        self.runs: list[CircuitRun] = []
        self.asked: list[Question] = []
        for rows in groups(len(pairs), size):
            part = pairs.select(rows)
            clean, bad = (streams(model, self.graph, t) for t in (part.clean, part.corrupted))
            ends = (part.corrupted, bad, clean) if swap else (part.clean, clean, bad)
            self.runs.append(CircuitRun(model, self.graph, *ends))
            self.asked.append(Question(self.metric, part, clean.logits))

    def measure(
        self, kept: Mask, known: Sequence[Written] | None = None, first: int = 0
    ) -> Float[np.ndarray, " pairs"]:
        """The metric of every prompt under a circuit; ``known`` as of :meth:`CircuitRun.logits`."""
        before = [None] * len(self.runs) if known is None else known
        several = zip(self.runs, before, strict=True)
        return self._asked([run.logits(kept, written, first) for run, written in several])

    def held(self, kept: Mask) -> list[Written]:
        """What every writer writes under a circuit, by group of prompts."""
        return [run.run(kept)[1] for run in self.runs]

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of clean and corrupted prompts; with ``swap`` the reverse."""
        clean = self._asked([run.clean.logits for run in self.runs])
        return clean, self._asked([run.corrupted.logits for run in self.runs])

    def _asked(self, logits: Sequence[Tensor]) -> np.ndarray:
        found = [asked.of(x) for asked, x in zip(self.asked, logits, strict=True)]
        return np.concatenate([x.detach().double().cpu().numpy() for x in found])


def faithfulness(
    model: Model,
    pairs: PromptPairs,
    edges: EdgeResult,
    sizes: Sequence[int] | None = None,
    *,
    how: How = "greedy",
    metric: MetricLike | None = None,
    random: int = 5,
    batch_size: int = 16,
    seed: int = 0,
) -> CircuitCurve:
    """Run the circuits of an edge attribution on prompts, these or others of the same task.

    ``(m(C) - m(corrupted)) / (m(clean) - m(corrupted))``, means over prompts; the edges outside the
    circuit carry the corrupted run. Source: Hanna et al. 2024, arXiv:2403.17806.

    Args:
        model: the one the edges are of.
        pairs: prompts; others than the edges were found on say more.
        edges: from :func:`attribute_edges`.
        sizes: numbers of edges; left out, about ten up to all.
        how: ``greedy`` or ``top``, see :meth:`EdgeResult.circuit`.
        metric: left out, the one of the edges.
        random: circuits of random edges for each size.
        batch_size: prompts in one pass.
        seed: of the random circuits.

    Raises:
        ConfigError: more edges than there are; a metric of your own that is not given again.
        MismatchError: edges of another model or tokenizer.
    """
    began = time.monotonic()
    known = edges.provenance.model.get("fingerprint")
    if known != model.card.fingerprint:
        raise MismatchError(f"the edges are of a model with fingerprint {known}, this one has "
                            f"{model.card.fingerprint}; attribute them again")  # fmt: skip
    chosen = _sizes(sizes, len(edges.edges))
    runs = Runs(model, pairs, edges.metric if metric is None else metric, batch_size)
    values = np.array([runs.measure(edges.circuit(n, how)) for n in chosen])
    n_draws = whole_number("random", random, least=0)
    draws = _random(runs, chosen, n_draws, len(pairs), seed)
    clean, corrupted = runs.ends
    return _curve(runs.metric, pairs, edges, chosen, values, draws, clean, corrupted, {
        "pairs": pairs.fingerprint(), "edges": edges.config, "how": how, "seed": seed,
    }, provenance.record(
        model=vars(model.card), seed=seed, seconds=time.monotonic() - began
    ))  # fmt: skip


def random_mask(n: int, of: int, rng: np.random.Generator) -> Mask:
    """``n`` of the edges, at random."""
    kept = np.zeros(of, dtype=bool)
    kept[rng.permutation(of)[:n]] = True
    return kept


def _random(
    runs: Runs, sizes: Sequence[int], draws: int, n_pairs: int, seed: int
) -> Float[np.ndarray, "sizes draws pairs"]:
    rng, of = np.random.default_rng(seed), runs.graph.n_edges
    found = [[runs.measure(random_mask(n, of, rng)) for _ in range(draws)] for n in sizes]
    return np.array(found, dtype=float).reshape(len(sizes), draws, n_pairs)


def _curve(
    metric: Metric, pairs: PromptPairs, edges: EdgeResult, sizes: Sequence[int],
    values: np.ndarray, draws: np.ndarray, clean: np.ndarray, corrupted: np.ndarray,
    config: dict[str, Any], made: provenance.Provenance,
) -> CircuitCurve:  # fmt: skip
    curve = CircuitCurve(
        task=pairs.task, metric=metric.name, unit=metric.unit, n_edges=np.array(sizes),
        values=values, random=draws, clean=clean, corrupted=corrupted, of=len(edges.edges),
        config=config, provenance=made,
    )  # fmt: skip
    if not draws.shape[1]:
        return curve
    from dataclasses import replace

    gap = float(curve.random_faithfulness.mean())  # NaN is told, not averaged away
    note = "mean faithfulness of circuits of as many random edges"
    return replace(curve, controls=Controls({"random_edges": gap}, note))


def _sizes(sizes: Sequence[int] | None, of: int) -> list[int]:
    if sizes is None:
        return sorted({int(n) for n in np.geomspace(1, of, 10).round()})
    found = [whole_number("sizes", n, least=0) for n in sizes]
    if not found or max(found) > of:
        raise ConfigError(f"sizes must be numbers of edges up to {of}, got {list(sizes)}")
    return found
