"""ACDC: take edges out one by one, from the logits back, and keep out what nobody misses.

1. Readers are taken from the logits back to the first layer; each edge into one is cut: the reader
   is given the corrupted run's share of the writer instead.
2. The circuit is run. Where the metric grows by less than the threshold, the edge stays out and the
   new value is what the next cut is compared with; else it is put back.
3. What writes to nobody any more is no longer run: its own edges go without a run.
4. Control: as many edges at random.

Source: Conmy et al. 2023, arXiv:2304.14997 (signed differences, as there).
"""

import time
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import ConfigError, MismatchError
from lensbench.interventions.attribution.faithful import Mask, Runs, random_mask
from lensbench.interventions.metrics import MetricLike
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.results import Controls, Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedCircuit(Result):
    """Edges that a task cannot do without, as far as single cuts tell.

    Edges are cut in an order, each among what is left then, so another order may keep others.
    """

    task: str
    metric: str
    unit: str
    threshold: float
    edges: tuple[str, ...]
    """``L0H1 -> L2H0.k`` for every edge of the graph."""
    kept: Bool[np.ndarray, " edges"]
    cost: Float[np.ndarray, " edges"]
    """By how much the metric grew when the edge was cut; NaN where it was not tried."""
    clean: float
    """The metric of the whole graph (0 for KL)."""
    corrupted: float
    """The metric of no edge."""
    circuit: float
    """The metric of the kept edges alone."""
    random: Float[np.ndarray, " draws"]
    """The metric of as many edges at random."""
    runs: int
    """Circuits that were run."""
    n: int
    """Number of prompts."""

    @property
    def names(self) -> tuple[str, ...]:
        """The edges that were kept."""
        return tuple(e for e, k in zip(self.edges, self.kept, strict=True) if k)

    @property
    def faithfulness(self) -> float:
        """``(m(C) - m(corrupted)) / (m(clean) - m(corrupted))``; 1 as the whole model."""
        return self._faithful(np.array([self.circuit]))[0]

    def _faithful(self, values: np.ndarray) -> Float[np.ndarray, " values"]:
        gap = self.clean - self.corrupted
        return (values - self.corrupted) / gap if abs(gap) > 1e-12 else values * np.nan

    def to_frame(self) -> "pd.DataFrame":
        """One row per edge of the graph: kept or not, and what cutting it cost."""
        import pandas as pd

        ends = [e.split(" -> ") for e in self.edges]
        frame = pd.DataFrame({"writer": [a for a, _ in ends], "reader": [b for _, b in ends],
                              "kept": self.kept, "cost": self.cost, "n": self.n})  # fmt: skip
        frame.attrs["units"] = {"cost": self.unit, "n": "prompts"}
        return frame

    def summary(self) -> dict[str, float]:
        """Edges kept of all, faithfulness beside random edges, runs, prompts."""
        found = {"kept": float(self.kept.sum()), "edges": float(len(self.edges)),
                 "faithfulness": float(self.faithfulness)}  # fmt: skip
        if len(self.random):
            found["faithfulness_random"] = float(self._faithful(self.random).mean())
        return {**found, "runs": float(self.runs), "prompts": float(self.n)}

    def plot(self) -> "go.Figure":
        """Writers by readers: what cutting each kept edge cost."""
        from lensbench.plots import heatmap

        frame = self.to_frame()
        frame = frame.assign(cost=frame["cost"].where(frame["kept"]))
        return heatmap(
            frame, x="reader", y="writer", value="cost", unit=self.unit, hover_columns=("n",),
            title=f"{self.task}: {int(self.kept.sum())} of {len(self.edges)} edges kept",
            subtitle=f"n = {self.n} prompts · threshold {self.threshold:g} {self.metric} · "
            f"control: {self.controls}",
        )  # fmt: skip


def acdc(
    model: Model,
    pairs: PromptPairs,
    threshold: float,
    *,
    metric: MetricLike = "kl",
    start: Bool[np.ndarray, " edges"] | None = None,
    random: int = 5,
    batch_size: int = 16,
    seed: int = 0,
) -> PrunedCircuit:
    """Prune edges whose removal costs less than ``threshold``, from the logits back.

    An edge stays out where ``m(without it) - m(before) < threshold``, m the mean over prompts.
    Source: Conmy et al. 2023, arXiv:2304.14997.

    Args:
        model: any back end.
        pairs: from :mod:`lensbench.prompts`; a cut edge carries the corrupted prompt.
        threshold: in the metric's unit; the larger, the fewer edges are kept.
        metric: something that grows as the model does worse: ``kl``, ``loss`` or a function.
        start: edges to begin with, such as those of :meth:`EdgeResult.circuit`; left out, all.
        random: circuits of as many random edges, the control.
        batch_size: prompts in one pass.
        seed: of the control.

    Raises:
        ConfigError: a threshold or a start that does not fit; a metric that is better when larger.
        MismatchError: pairs of another tokenizer.

    Example:
        >>> few = pairs.select(range(2))
        >>> circuit = interventions.acdc(model, few, threshold=1.0, random=1)
    """
    began = time.monotonic()
    runs = Runs(model, pairs, metric, batch_size)
    if runs.metric.name in ("logit_diff", "probability"):
        raise ConfigError(
            f"{runs.metric.name} grows as the model does better; acdc wants a loss: 'kl', 'loss', "
            "or a function such as lambda ends: -logit_diff(ends)"
        )
    if not isinstance(threshold, Real) or not 0 <= float(threshold) < float("inf"):
        raise ConfigError(f"threshold must be a finite number of at least 0, got {threshold!r}")
    of, draws = runs.graph.n_edges, whole_number("random", random, least=0)
    kept = np.ones(of, dtype=bool) if start is None else np.array(start, dtype=bool)
    if kept.shape != (of,):
        raise MismatchError(f"start has shape {list(kept.shape)}; this graph has {of} edges")
    cost, tried = _prune(runs, kept, float(threshold))
    mean = lambda mask: float(runs.measure(mask).mean())  # noqa: E731 - used below
    rng = np.random.default_rng(seed)
    chance = [mean(random_mask(int(kept.sum()), of, rng)) for _ in range(draws)]
    found = PrunedCircuit(
        task=pairs.task, metric=runs.metric.name, unit=runs.metric.unit,
        threshold=float(threshold), edges=runs.graph.names(), kept=kept, cost=cost,
        clean=mean(np.ones(of, dtype=bool)), corrupted=mean(np.zeros(of, dtype=bool)),
        circuit=mean(kept), random=np.array(chance), runs=tried, n=len(pairs),
        config={"pairs": pairs.fingerprint(), "threshold": float(threshold), "seed": seed,
                "metric": runs.metric.name, "start": "all" if start is None else int(sum(start))},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    )  # fmt: skip
    if not draws:
        return found
    share = found.summary()["faithfulness_random"]
    return replace(found, controls=Controls({"random_edges": share}, "as many edges at random"))


def _prune(runs: Runs, kept: Mask, threshold: float) -> tuple[Float[np.ndarray, " edges"], int]:
    """Cut in place; what each cut cost, and how many circuits were run."""
    graph = runs.graph
    cost, tried = np.full(graph.n_edges, np.nan), 1
    before = runs.held(kept)
    now = float(runs.measure(kept).mean())
    for reader in range(len(graph.readers) - 1, -1, -1):
        end = graph.readers[reader]
        into = np.flatnonzero((graph.edges[:, 1] == reader) & kept)[::-1]
        writes, first = graph.writers_of(end), end.layer if end.layer >= 0 else runs.n_layers
        if writes and not np.isin(graph.edges[kept, 0], writes).any():
            kept[into] = False  # nobody reads what this one would write
            continue
        for edge in into:
            kept[edge] = False
            # Layers before the reader's have not been cut yet: they write what they did.
            new = float(runs.measure(kept, before, first).mean())
            tried += 1
            cost[edge] = new - now
            if new - now < threshold:
                now = new
            else:
                kept[edge] = True
    return cost, tried
