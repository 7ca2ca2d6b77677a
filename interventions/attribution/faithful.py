"""How much of a task a circuit of edges does by itself, and what is left without it.

1. For each size the largest edges of an attribution are kept and the circuit is really run
   (:mod:`lensbench.interventions.attribution.circuit`); then all edges but these.
2. Control: as many edges at random, between the same layers, a band.
"""

import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lensbench import provenance
from lensbench.arguments import whole_number
from lensbench.errors import MismatchError
from lensbench.interventions.attribution.circuit import CircuitRun, Written
from lensbench.interventions.attribution.curve import (
    CircuitCurve,
    Mask,
    alike,
    sizes_up_to,
    with_band,
)
from lensbench.interventions.attribution.edge_result import EdgeResult, How
from lensbench.interventions.attribution.gradients import Question
from lensbench.interventions.attribution.graph import Graph
from lensbench.interventions.attribution.streams import streams
from lensbench.interventions.metrics import MetricLike, as_metric
from lensbench.interventions.values import groups
from lensbench.models.base import Model
from lensbench.prompts.pairs import PromptPairs
from lensbench.prompts.score import check_pairs


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
    random: int = 20,
    batch_size: int = 16,
    seed: int = 0,
) -> CircuitCurve:
    """Run the circuits of an edge attribution on prompts, these or others of the same task.

    ``(m(C) - m(corrupted)) / (m(clean) - m(corrupted))``, means over prompts; the edges outside the
    circuit carry the corrupted run. Completeness is 1 less the same of all edges but the circuit's.
    Source: Hanna et al. 2024, arXiv:2403.17806; Marks et al. 2024, arXiv:2403.19647.

    Args:
        model: the one the edges are of.
        pairs: prompts; others than the edges were found on say more.
        edges: from :func:`attribute_edges`.
        sizes: numbers of edges; left out, about ten up to all.
        how: ``greedy`` or ``top``, see :meth:`EdgeResult.circuit`.
        metric: left out, the one of the edges.
        random: circuits of random edges for each size, between each two layers as many.
        batch_size: prompts in one pass.
        seed: of the random circuits.

    Raises:
        ConfigError: more edges than there are; a metric of your own that is not given again.
        MismatchError: edges of another model or tokenizer.

    Example:
        >>> edges = interventions.attribute_edges(model, pairs, method="eap")
        >>> curve = interventions.faithfulness(model, pairs, edges, [10, 50], random=2)
    """
    began = time.monotonic()
    known = edges.provenance.model.get("fingerprint")
    if known != model.card.fingerprint:
        raise MismatchError(f"the edges are of a model with fingerprint {known}, this one has "
                            f"{model.card.fingerprint}; attribute them again")  # fmt: skip
    chosen = sizes_up_to(sizes, len(edges.edges), "edges")
    draws = whole_number("random", random, least=0)
    runs = Runs(model, pairs, edges.metric if metric is None else metric, batch_size)
    rng, layers = np.random.default_rng(seed), _layers(runs.graph)
    circuits = [edges.circuit(n, how) for n in chosen]
    band = [[runs.measure(alike(c, layers, rng)) for _ in range(draws)] for c in circuits]
    clean, corrupted = runs.ends
    return with_band(CircuitCurve(
        task=pairs.task, metric=runs.metric.name, unit=runs.metric.unit, parts="edges",
        sizes=np.array(chosen), values=np.array([runs.measure(c) for c in circuits]),
        rest=np.array([runs.measure(~c) for c in circuits]),
        random=np.array(band, dtype=float).reshape(len(chosen), draws, len(pairs)),
        clean=clean, corrupted=corrupted, of=len(edges.edges),
        config={"pairs": pairs.fingerprint(), "edges": edges.config, "how": how, "seed": seed},
        provenance=provenance.record(
            model=vars(model.card), seed=seed, seconds=time.monotonic() - began
        ),
    ))  # fmt: skip


def _layers(graph: Graph) -> Int[np.ndarray, " edges"]:
    """A number for every pair of layers that an edge can join."""
    found = np.array([[graph.writers[w].layer, graph.readers[r].layer] for w, r in graph.edges])
    return np.unique(found, axis=0, return_inverse=True)[1].reshape(-1)


def random_mask(n: int, of: int, rng: np.random.Generator) -> Mask:
    """``n`` of the edges, at random."""
    kept = np.zeros(of, dtype=bool)
    kept[rng.permutation(of)[:n]] = True
    return kept
